/*
 * Tasks: lasting definitions of what to run and when.
 *
 * create_task and update_task share one check of the whole row, so that a task that is accepted
 * can fire.  A change of the schedule raises the revision and replans at once, under the lock of
 * the task's schedule row: tick fires only a plan of the current revision.
 */

create or replace function ordinaut._task_id(p_task text)
returns uuid
language plpgsql
stable
as $fn$
declare
  v_ids uuid[];
  v_tail text := lower(replace(p_task, '-', ''));
begin
  select array_agg(t.task_id) into v_ids
  from ordinaut.task as t
  where
    (t.namespace = 'default' and t.name = p_task)
    or (strpos(p_task, '/') > 0 and t.namespace = split_part(p_task, '/', 1)
      and t.name = substr(p_task, strpos(p_task, '/') + 1));
  if v_ids is null and v_tail ~ '^[0-9a-f]{4,32}$' then
    select array_agg(t.task_id) into v_ids
    from ordinaut.task as t
    where right(replace(t.task_id::text, '-', ''), length(v_tail)) = v_tail;
  end if;

  if cardinality(v_ids) = 1 then
    return v_ids[1];
  end if;
  raise exception using
    errcode = 'OR020',
    message = case
      when v_ids is null then format('there is no task %L', p_task)
      else format('%L could be any of %s tasks', p_task, cardinality(v_ids))
    end,
    hint = 'A task is named by its id, a unique end of it, name, or namespace/name.';
end
$fn$;

comment on function ordinaut._task_id(text) is
  'The task that an id, the end of one, name or namespace/name means. Errors: OR020.';

/* A task whose runs must not overlap has a key of its own: the hold that keeps them apart is the
   one of all keys, through retries, a lost worker and a cancel that is not heard yet. */
create or replace function ordinaut._key_of(p_task ordinaut.task)
returns text
language sql
immutable
as $fn$
  select case
    when p_task.key is null and p_task.overlap <> 'allow' then 'task:' || p_task.task_id
    else p_task.key
  end;
$fn$;

comment on function ordinaut._key_of(ordinaut.task) is 'The key of a task''s runs; null: none.';

create or replace function ordinaut._key_limit_of(p_task ordinaut.task)
returns integer
language sql
immutable
as $fn$
  select case
    when p_task.key is not null then p_task.key_limit
    when p_task.overlap <> 'allow' then 1
  end;
$fn$;

comment on function ordinaut._key_limit_of(ordinaut.task) is
  'How many runs with the key of a task''s runs may be live; null: they have no key.';

/* Plans the task's current revision.  p_after: nothing up to it is wanted.  What a planner expanded
   is kept while its revision is the current one, and its remaining occurrences count at once;
   else the planner is called for, and until it came the task has no next run. */
create or replace function ordinaut._plan(p_task ordinaut.task, p_after timestamptz)
returns timestamptz
language plpgsql
volatile
as $fn$
declare
  v_next timestamptz;
  v_look timestamptz;
  v_awaits uuid;
  v_plan ordinaut.task_schedule;
  v_is_planned constant boolean := ordinaut._is_planned(p_task);
begin
  select s.* into v_plan
  from ordinaut.task_schedule as s
  where s.task_id = p_task.task_id and s.revision = p_task.revision and v_is_planned;
  if p_task.status = 'active' and p_task.schedule_kind = 'condition' then
    v_look := greatest(p_after, p_task.start_at);
  elsif p_task.status = 'active' and p_task.schedule_kind <> 'event'
    and ordinaut._is_told(p_task)
  then
    select a.next_run, a.look_at, a.awaits_run into v_next, v_look, v_awaits
    from ordinaut._plan_after_end(p_task, p_after) as a;
  elsif p_task.status = 'active' then
    v_next := case
      when v_is_planned then ordinaut._next_planned(v_plan, p_after)
      else ordinaut._next_occurrence(p_task, p_after)
    end;
  end if;
  insert into ordinaut.task_schedule as s (task_id, revision, next_run, plan_after, replan_at,
    look_at)
  values (p_task.task_id, p_task.revision, v_next,
    case when v_is_planned then p_after end,
    case when v_is_planned and p_task.status = 'active' then '-infinity'::timestamptz end,
    v_look)
  on conflict on constraint task_schedule_pk do update
  set
    revision = excluded.revision,
    next_run = excluded.next_run,
    upcoming = v_plan.upcoming,
    dst = v_plan.dst,
    excluded = v_plan.excluded,
    planned_until = v_plan.planned_until,
    planned_at = v_plan.planned_at,
    tzdata = v_plan.tzdata,
    is_exhausted = coalesce(v_plan.is_exhausted, false),
    plan_after = excluded.plan_after,
    -- Decided by a clock that ran ahead: whoever edits or resumes the task begins anew at now.
    fired_until = case
      when s.fired_until > ordinaut.now() then ordinaut.now()
      else s.fired_until
    end,
    replan_at = excluded.replan_at,
    look_at = excluded.look_at,
    awaits_run = coalesce(v_awaits, s.awaits_run),
    -- What became true and has not fired yet is news again.
    is_met = s.is_met and (s.next_run is null or p_task.schedule_kind <> 'condition');
  return v_next;
end
$fn$;

comment on function ordinaut._plan(ordinaut.task, timestamptz) is
  'Plan the next occurrence after an instant and return it; null for a task that is not active, '
  'and while a planner has to be waited for.';

create or replace function ordinaut.create_task(
  p_name             text,
  p_tool             text        default null,
  p_payload          jsonb       default '{}',
  p_schedule_kind    text        default 'manual',
  p_schedule_expr    text        default null,
  p_timezone         text        default 'UTC',
  p_start_at         timestamptz default null,
  p_end_at           timestamptz default null,
  p_namespace        text        default 'default',
  p_description      text        default null,
  p_queue            text        default 'default',
  p_priority         integer     default 5,
  p_key              text        default null,
  p_key_limit        integer     default 1,
  p_max_attempts     integer     default 3,
  p_retry            jsonb       default null,
  p_timeout          interval    default null,
  p_catchup          text        default 'latest',
  p_grace            interval    default '60 s',
  p_allow_past       boolean     default false,
  p_dst_gap          text        default null,
  p_dst_overlap      text        default null,
  p_overlap          text        default 'allow',
  p_catchup_window   interval    default null,
  p_catchup_rate     integer     default null,
  p_jitter           interval    default null,
  p_max_runs         integer     default null,
  p_pause_on_failure integer     default null,
  p_exclude          text[]      default null,
  p_pipeline         jsonb       default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_task ordinaut.task;
  v_pipeline_id uuid;
begin
  select w.tool, w.payload, w.pipeline_id into p_tool, p_payload, v_pipeline_id
  from ordinaut._what_to_run(p_tool, p_payload, p_pipeline) as w;
  v_task := row(ordinaut.uuid_generate_v7(v_now), p_namespace, p_name, p_description, p_tool,
    p_payload, v_pipeline_id, p_queue, p_priority, p_schedule_kind, p_schedule_expr, p_timezone,
    p_dst_gap, p_dst_overlap, nullif(p_exclude, '{}'), p_start_at, p_end_at, p_key, p_key_limit,
    p_max_attempts, p_retry, p_timeout, p_catchup, p_grace, p_catchup_window, p_catchup_rate,
    p_overlap, p_jitter, p_max_runs, p_pause_on_failure, 'active', null, ordinaut._actor(), v_now,
    1, v_now, ordinaut._actor(), v_now)::ordinaut.task;
  perform ordinaut._check_task(v_task, coalesce(p_allow_past, false));
  perform ordinaut._hold_calendars(v_task);

  insert into ordinaut.task select v_task.* on conflict on constraint task_name_key do nothing;
  if not found then
    raise exception using
      errcode = 'OR030',
      message = format('task %s/%s exists', p_namespace, p_name),
      hint = 'update_task() changes it.';
  end if;
  /* A once in the past that was accepted fires at the next tick.  An interval starts one duration
     after its creation, or at its start; what lies before now was never promised. */
  perform ordinaut._plan(v_task, case p_schedule_kind when 'once' then '-infinity' else v_now end);
  perform ordinaut._journal('task_created', p_task_id => v_task.task_id,
    p_detail => jsonb_build_object('name', p_namespace || '/' || p_name,
      'schedule_kind', p_schedule_kind, 'schedule_expr', p_schedule_expr));
  return v_task.task_id;
end
$fn$;

comment on function ordinaut.create_task(
  text, text, jsonb, text, text, text, timestamptz, timestamptz, text, text, text, integer, text,
  integer, integer, jsonb, interval, text, interval, boolean, text, text, text, interval, integer,
  interval, integer, integer, text[], jsonb
) is
  'Define a task and return its id. p_tool: what its runs call, with p_payload; or p_pipeline: '
  'the steps that they take (an array of {"id", "uses", "with", "needs", ...}), p_payload being '
  'their params. p_schedule_kind: manual (run_now() only), interval (p_schedule_expr a duration, '
  'counted from p_start_at or now, elapsed time; 15 min phase 2 min: counted from p_start_at or '
  '1970, plus the phase; 10 min after end: from the end of its last run), condition (every 30 s: '
  'select exists (...): fires when the query, which a scheduler asks so often, becomes true), '
  'event (a topic, a.b, or a.* or *: emit_event() starts it, with the event in its payload), '
  'once (an ISO timestamp; without offset it is wall time in p_timezone; past by up to p_grace '
  'it runs at once, older is refused unless p_allow_past), cron (5 fields, 6 with seconds first, '
  'or @daily) and rrule (RFC 5545; p_start_at is its DTSTART unless it has one), both wall time '
  'in p_timezone, and union (a JSON array of these: [{"kind": "cron", "expr": "0 9 * * *"}, '
  '...]; an instant that they share fires once), planned by a scheduler, which makes a task '
  'whose calendar is none invalid. p_dst_gap (shift, skip), p_dst_overlap (first, second, both): '
  'what to do in a skipped and in a repeated hour; null: as Debian''s cron, as RFC 5545. '
  'p_exclude: calendars of its namespace (set_calendar()); what falls into one does not fire. '
  'p_key, p_key_limit: at most so many of its runs live at once. p_retry: {"base": "1 s", "cap": '
  '"60 s", "factor": 2, "jitter": 0.1, "strategy": "exponential"}. p_catchup: which occurrences '
  'fire that came while no scheduler ran: all, latest, none (but those within p_grace); '
  'p_catchup_window: not those older; p_catchup_rate: at most so many of them a minute. '
  'p_overlap: what to do when it is due while a run of it is live: allow, skip, buffer_one (one '
  'waits), buffer_all (they wait in line), cancel_other (the live one is cancelled, and the new '
  'one starts when it has ended). p_jitter: its runs start up to so much later, but before the '
  'next is due, and always the same. p_max_runs: then it is completed. p_pause_on_failure: after '
  'so many failed runs in a row it is paused, when it is due next. Errors: OR030 (name taken), '
  'invalid_parameter_value, program_limit_exceeded.';

create or replace function ordinaut.update_task(p_task text, p_patch jsonb)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_task_id uuid := ordinaut._task_id(p_task);
  v_old ordinaut.task;
  v_new ordinaut.task;
  v_key text;
  v_replan boolean;
  v_revive boolean;
begin
  if jsonb_typeof(p_patch) is distinct from 'object' then
    perform ordinaut._refuse('patch must be an object', 'For example {"priority": 3}.');
  elsif p_patch ?& array['params', 'payload'] then
    perform ordinaut._refuse('params and payload say the same: give one');
  elsif p_patch ? 'params' then
    p_patch := p_patch - 'params'::text || jsonb_build_object('payload', p_patch -> 'params');
  end if;
  -- Calendars before schedule rows, as set_calendar() locks them: the other order is a deadlock.
  if p_patch ?| array['exclude', 'namespace'] then
    perform
    from ordinaut.task as t
    join ordinaut.calendar as c
      on c.namespace in (t.namespace, p_patch ->> 'namespace')
      and (c.name = any (t.exclude) or p_patch -> 'exclude' ? c.name)
    where t.task_id = v_task_id
    order by c.namespace, c.name
    for key share of c;
  end if;
  -- The schedule row first: a tick that fires this task finishes before, or starts after.
  perform from ordinaut.task_schedule as s where s.task_id = v_task_id for update;
  select t.* into v_old from ordinaut.task as t where t.task_id = v_task_id for update;

  v_new := v_old;
  for v_key in select k.key from jsonb_object_keys(p_patch) as k (key) loop
    if v_key in ('allow_past', 'pipeline') then
      continue;
    elsif v_key not in ('name', 'namespace', 'description', 'tool', 'payload', 'queue', 'priority',
      'schedule_kind', 'schedule_expr', 'timezone', 'dst_gap', 'dst_overlap', 'start_at', 'end_at',
      'key', 'key_limit', 'max_attempts', 'retry', 'timeout', 'catchup', 'grace', 'catchup_window',
      'catchup_rate', 'overlap', 'jitter', 'max_runs', 'pause_on_failure', 'exclude')
    then
      perform ordinaut._refuse(format('a task has no field %L to update', v_key),
        'The fields are the arguments of create_task(), without p_.');
    end if;
    begin
      v_new := jsonb_populate_record(v_new, jsonb_build_object(v_key, p_patch -> v_key));
    exception
      when data_exception then
        perform ordinaut._refuse(
          format('%s cannot be %s: %s', v_key, left((p_patch -> v_key)::text, 80), sqlerrm));
    end;
  end loop;
  v_new.exclude := nullif(v_new.exclude, '{}');
  if p_patch ? 'pipeline' or p_patch -> 'payload' ? 'pipeline' then
    select w.tool, w.payload, w.pipeline_id into v_new.tool, v_new.payload, v_new.pipeline_id
    from ordinaut._what_to_run(
      case
        when p_patch ? 'tool' or p_patch ->> 'pipeline' is null then v_new.tool
        else 'pipeline'
      end,
      v_new.payload, p_patch -> 'pipeline') as w;
  elsif v_new.tool <> 'pipeline' then
    v_new.pipeline_id := null;
  else
    perform ordinaut._hold_pipeline(v_new.pipeline_id);
  end if;
  if v_new = v_old then
    return v_old.revision;
  end if;

  v_replan := (
    v_new.schedule_kind, v_new.schedule_expr, v_new.timezone, v_new.dst_gap, v_new.dst_overlap,
    v_new.start_at, v_new.end_at, v_new.max_runs, v_new.exclude,
    case when v_new.exclude is not null then v_new.namespace end
  ) is distinct from (
    v_old.schedule_kind, v_old.schedule_expr, v_old.timezone, v_old.dst_gap, v_old.dst_overlap,
    v_old.start_at, v_old.end_at, v_old.max_runs, v_old.exclude,
    case when v_new.exclude is not null then v_old.namespace end
  );
  if v_old.status = 'cancelled' then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is cancelled', v_old.namespace, v_old.name),
      hint = 'A cancelled task never fires again; create another.';
  end if;
  -- Whatever made it invalid, perhaps this mends it: if not, planner or tick say so again.
  v_revive := v_old.status = 'invalid' or (v_replan and v_old.status = 'completed');
  if v_revive then
    v_new.status := 'active';
    v_new.status_note := null;
    v_new.status_by := ordinaut._actor();
    v_new.status_at := v_now;
  end if;
  -- Only a new schedule is held to "not in the past": other edits of a task that fired are fine.
  perform ordinaut._check_task(
    v_new, not v_replan or coalesce((p_patch ->> 'allow_past')::boolean, false));
  -- Held already.  An edit of something else must not ask for them: it has the schedule row.
  if (v_new.exclude, v_new.namespace) is distinct from (v_old.exclude, v_old.namespace) then
    perform ordinaut._hold_calendars(v_new);
  end if;
  v_new.revision := v_old.revision + 1;
  v_new.updated_at := v_now;

  begin
    update ordinaut.task as t
    set
      namespace = v_new.namespace,
      name = v_new.name,
      description = v_new.description,
      tool = v_new.tool,
      payload = v_new.payload,
      pipeline_id = v_new.pipeline_id,
      queue = v_new.queue,
      priority = v_new.priority,
      schedule_kind = v_new.schedule_kind,
      schedule_expr = v_new.schedule_expr,
      timezone = v_new.timezone,
      dst_gap = v_new.dst_gap,
      dst_overlap = v_new.dst_overlap,
      exclude = v_new.exclude,
      start_at = v_new.start_at,
      end_at = v_new.end_at,
      key = v_new.key,
      key_limit = v_new.key_limit,
      max_attempts = v_new.max_attempts,
      retry = v_new.retry,
      timeout = v_new.timeout,
      catchup = v_new.catchup,
      grace = v_new.grace,
      catchup_window = v_new.catchup_window,
      catchup_rate = v_new.catchup_rate,
      overlap = v_new.overlap,
      jitter = v_new.jitter,
      max_runs = v_new.max_runs,
      pause_on_failure = v_new.pause_on_failure,
      status = v_new.status,
      status_note = v_new.status_note,
      status_by = v_new.status_by,
      status_at = v_new.status_at,
      revision = v_new.revision,
      updated_at = v_new.updated_at
    where t.task_id = v_task_id;
  exception
    when unique_violation then
      raise exception using
        errcode = 'OR030',
        message = format('task %s/%s exists', v_new.namespace, v_new.name),
        hint = 'Choose another name.';
  end;
  if v_replan or v_revive then
    perform ordinaut._plan(v_new,
      case v_new.schedule_kind when 'once' then '-infinity' else v_now end);
    -- What an old query was says nothing of a new one; the same one need not fire again.
    if ordinaut._condition_query(v_new.schedule_expr)
      is distinct from ordinaut._condition_query(v_old.schedule_expr)
    then
      update ordinaut.task_schedule as s
      set
        is_met = null,
        met_at = null,
        look_error = null,
        look_failures = 0
      where s.task_id = v_task_id;
    end if;
  else
    update ordinaut.task_schedule as s set revision = v_new.revision where s.task_id = v_task_id;
  end if;
  perform ordinaut._journal('task_updated', p_task_id => v_task_id, p_detail => jsonb_build_object(
    'revision', v_new.revision, 'patch', p_patch));
  return v_new.revision;
end
$fn$;

comment on function ordinaut.update_task(text, jsonb) is
  'Change fields of a task, named as the arguments of create_task() without p_, and return its '
  'revision. A new schedule is planned at once and the old one never fires again; an empty '
  'patch, or one that changes nothing, changes nothing. An invalid task becomes active again, to '
  'be tried anew. pipeline replaces its steps, or its tool by steps; params is the same as '
  'payload. Runs that exist, queued ones too, keep what they have. Errors: OR020, OR030 (name '
  'taken), OR031 (cancelled), invalid_parameter_value.';
