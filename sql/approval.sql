/*
 * Approvals: a step asks people, and goes on with their answer.
 *
 *   the step waits --> an approval, open --respond--------> the step completes with the response
 *                                       \--cancel_approval--> the step fails
 *                                       \--its expiry-------> the step fails, or goes on
 *
 * One decision ever, made with the run's row held.  Who may answer is asked of the login role:
 * inside a security definer, current_user is always the owner.  A step that is tried again asks
 * again, by another approval.
 */

create or replace function ordinaut._check_responders(p_responders jsonb)
returns text[]
language plpgsql
stable
as $fn$
declare
  v_role text;
begin
  if p_responders is null or jsonb_typeof(p_responders) = 'null' then
    return null;
  elsif jsonb_typeof(p_responders) <> 'array' or p_responders = '[]'
    or jsonb_path_exists(p_responders, '$[*] ? (@.type() != "string")')
  then
    perform ordinaut._refuse(
      format('responders %s are no list of roles', left(p_responders::text, 80)));
  end if;
  select r.name into v_role
  from jsonb_array_elements_text(p_responders) as r (name)
  where not exists (select from pg_roles as p where p.rolname = r.name)
  limit 1;
  if found then
    perform ordinaut._refuse(format('responders: there is no role %L', v_role),
      'Name roles of the database: its members may answer.');
  end if;
  return array(select r.name from jsonb_array_elements_text(p_responders) as r (name));
end
$fn$;

comment on function ordinaut._check_responders(jsonb) is
  'The roles that may answer; null: not limited. Errors: invalid_parameter_value.';

create or replace function ordinaut._may_answer(p_responders text[])
returns boolean
language sql
stable
as $fn$
  select p_responders is null or exists (
    select
    from pg_roles as r
    where r.rolname = any (p_responders) and pg_has_role(session_user, r.oid, 'member')
  );
$fn$;

comment on function ordinaut._may_answer(text[]) is
  'Whether the login role may answer what these roles are asked.';

create or replace function ordinaut._wait_approval(
  p_step ordinaut.step,
  p_run  ordinaut.task_run,
  p_item ordinaut.work_item,
  p_wait jsonb,
  p_now  timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
  v_id constant uuid := ordinaut.uuid_generate_v7(p_now);
  v_until constant timestamptz :=
    ordinaut._deadline('expires_in', p_wait -> 'expires_in', p_now);
  v_schema constant jsonb := nullif(p_wait -> 'schema', 'null');
begin
  if coalesce(p_wait ->> 'prompt', '') = '' or length(p_wait ->> 'prompt') > 10000 then
    perform ordinaut._refuse('prompt must be 1 to 10000 characters',
      'It is what people are asked.');
  end if;
  if v_schema is not null then
    perform ordinaut._check_schema(v_schema);
  end if;
  insert into ordinaut.approval (approval_id, step_id, run_id, prompt, schema, data, responders,
    created_at, expires_at)
  values (v_id, p_step.step_id, p_run.run_id, p_wait ->> 'prompt', v_schema, p_wait -> 'data',
    ordinaut._check_responders(p_wait -> 'responders'), p_now, v_until);
  v_item.run_at := coalesce(v_until, p_now);
  v_item.payload := jsonb_strip_nulls(jsonb_build_object(
    'approval_id', v_id, 'deadline', ordinaut._iso(v_until),
    'after', ordinaut._check_after('on_expiry', p_wait ->> 'on_expiry')));
  perform ordinaut._park(v_item, 'approval');
end
$fn$;

comment on function ordinaut._wait_approval(
  ordinaut.step, ordinaut.task_run, ordinaut.work_item, jsonb, timestamptz
) is
  'Ask people, and park the step until they have answered. Errors: invalid_parameter_value.';

-- The approval with its run held, if it can still be decided by the caller.
create or replace function ordinaut._open_approval(p_id uuid)
returns ordinaut.approval
language plpgsql
volatile
as $fn$
declare
  v_approval ordinaut.approval;
begin
  select a.* into v_approval
  from ordinaut.approval as a
  where a.approval_id = p_id or a.step_id = p_id
  order by a.approval_id desc
  limit 1;
  if not found then
    raise exception using
      errcode = 'OR020',
      message = format('there is no approval %s', p_id),
      hint = 'list_approvals() shows them; an approval is named by its id or that of its step.';
  elsif not ordinaut._may_answer(v_approval.responders) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = format('%s may not answer approval %s', session_user, v_approval.approval_id),
      hint = format('Only members of %s may.', array_to_string(v_approval.responders, ' or '));
  end if;
  perform ordinaut._lock_run(v_approval.run_id);
  select a.* into v_approval
  from ordinaut.approval as a
  where a.approval_id = v_approval.approval_id;
  if v_approval.decision is not null then
    raise exception using
      errcode = 'OR031',
      message = format('approval %s was %s by %s at %s', v_approval.approval_id,
        v_approval.decision, v_approval.decided_by, v_approval.decided_at),
      hint = 'The first decision stands.';
  elsif v_approval.expires_at <= ordinaut.now() then
    raise exception using
      errcode = 'OR031',
      message = format('approval %s expired at %s', v_approval.approval_id, v_approval.expires_at),
      hint = 'Retry its run to be asked again.';
  elsif not exists (
    select from ordinaut.parked as p
    where
      p.work_id = v_approval.step_id and p.reason = 'approval'
      and p.payload ->> 'approval_id' = v_approval.approval_id::text
  ) then
    raise exception using
      errcode = 'OR031',
      message = format('nothing waits for approval %s any more: its step is %s',
        v_approval.approval_id,
        coalesce((ordinaut._step_of(v_approval.step_id)).state, 'gone')),
      hint = 'Its run was cancelled, or failed elsewhere.';
  end if;
  return v_approval;
end
$fn$;

comment on function ordinaut._open_approval(uuid) is
  'An approval that can be decided, with its run held. Errors: OR020, OR031, '
  'insufficient_privilege.';

create or replace function ordinaut.respond(
  p_id       uuid,
  p_response jsonb,
  p_note     text default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_approval ordinaut.approval := ordinaut._open_approval(p_id);
  v_problem text;
begin
  if pg_column_size(p_response) > 1048576 then
    raise exception using
      errcode = 'program_limit_exceeded', message = 'the response is over 1 MB';
  end if;
  v_problem := case
    when p_response is null then 'response must not be null'
    when v_approval.schema is not null
      then ordinaut._json_problem(v_approval.schema, p_response)
    when jsonb_typeof(p_response) not in ('object', 'boolean')
      then 'response must be an object or a boolean'
  end;
  if v_problem is not null then
    perform ordinaut._refuse(v_problem, format('Approval %s is still open. Its schema: %s',
      v_approval.approval_id, coalesce(left(v_approval.schema::text, 2000), 'none')));
  end if;

  update ordinaut.approval as a
  set
    decision = 'answered',
    response = p_response,
    note = p_note,
    decided_at = v_now,
    decided_by = ordinaut._actor()
  where a.approval_id = v_approval.approval_id;
  perform ordinaut._journal('approval_answered', v_approval.run_id,
    p_step => (ordinaut._step_of(v_approval.step_id)).name,
    p_detail => jsonb_build_object(
      'approval_id', v_approval.approval_id, 'response', p_response, 'note', p_note));
  perform ordinaut._end_step(ordinaut._step_of(v_approval.step_id), 'complete',
    jsonb_build_object('response', p_response, 'by', ordinaut._actor(),
      'at', ordinaut._iso(v_now), 'note', p_note), v_now);
  return v_approval.approval_id;
end
$fn$;

comment on function ordinaut.respond(uuid, jsonb, text) is
  'Answer what a step asks (p_id: of the approval, or of the step); the step completes with '
  '{"response", "by", "at", "note"}. The first decision stands. Errors: OR020, OR031 (decided '
  'before, and by whom; expired; nothing waits any more), insufficient_privilege (the login role '
  'is no member of who may answer), invalid_parameter_value (the response breaks the schema: it '
  'is still open), program_limit_exceeded.';

create or replace function ordinaut.cancel_approval(p_id uuid, p_note text default null)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_approval ordinaut.approval := ordinaut._open_approval(p_id);
begin
  update ordinaut.approval as a
  set
    decision = 'cancelled',
    note = p_note,
    decided_at = v_now,
    decided_by = ordinaut._actor()
  where a.approval_id = v_approval.approval_id;
  perform ordinaut._fail_step(
    ordinaut._step_of(v_approval.step_id),
    ordinaut._wait_error(
      format('approval %s was cancelled by %s%s', v_approval.approval_id, ordinaut._actor(),
        coalesce(': ' || p_note, '')), 'ApprovalCancelled', 'permission', 'E8002'),
    v_now);
  return v_approval.approval_id;
end
$fn$;

comment on function ordinaut.cancel_approval(uuid, text) is
  'Withdraw what a step asks: the step fails. Errors: as respond().';

create or replace function ordinaut.list_approvals(
  p_state  text    default 'open',
  p_run_id uuid    default null,
  p_limit  integer default 100
)
returns table (
  approval_id uuid,
  run_id      uuid,
  step_id     uuid,
  task        text,
  step        text,
  state       text,
  prompt      text,
  data        jsonb,
  schema      jsonb,
  responders  text[],
  may_answer  boolean,
  created_at  timestamptz,
  expires_at  timestamptz,
  response    jsonb,
  note        text,
  decided_at  timestamptz,
  decided_by  text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  if p_state not in ('open', 'answered', 'cancelled', 'expired', 'void', 'any') then
    perform ordinaut._refuse(
      format('state %L must be open, answered, cancelled, expired, void or any', p_state));
  end if;
  return query
  select
    a.approval_id, a.run_id, a.step_id, t.namespace || '/' || t.name, s.name, v.state, a.prompt,
    a.data, a.schema, a.responders, ordinaut._may_answer(a.responders), a.created_at, a.expires_at,
    a.response, a.note, a.decided_at, a.decided_by
  from ordinaut.approval as a
  cross join lateral (
    select case
      when a.decision is not null then a.decision
      when exists (
        select from ordinaut.parked as p
        where
          p.work_id = a.step_id and p.reason = 'approval'
          and p.payload ->> 'approval_id' = a.approval_id::text
      ) then 'open'
      else 'void'
    end as state
  ) as v
  left join ordinaut.step as s on s.step_id = a.step_id
  left join ordinaut.task_run as r on r.run_id = a.run_id
  left join ordinaut.task as t on t.task_id = r.task_id
  where
    (p_state = 'any' or v.state = p_state)
    and (p_run_id is null or a.run_id = p_run_id)
  order by a.created_at, a.approval_id
  limit p_limit;
end
$fn$;

comment on function ordinaut.list_approvals(text, uuid, integer) is
  'What people are asked, oldest first; those that are open, or of another p_state: answered, '
  'cancelled, expired, void (its step ended without an answer), any. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut.find_approval(p_tail text, p_step text default null)
returns setof uuid
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_tail constant text := lower(replace(p_tail, '-', ''));
begin
  if v_tail !~ '^[0-9a-f]{4,32}$' then
    perform ordinaut._refuse(
      format('%L is not the end of the id of an approval, step or run', left(p_tail, 60)),
      'At least four hexadecimal digits.');
  end if;
  return query
  select a.approval_id
  from ordinaut.approval as a
  where
    case
      when p_step is null then
        right(replace(a.approval_id::text, '-', ''), length(v_tail)) = v_tail
        or right(replace(a.step_id::text, '-', ''), length(v_tail)) = v_tail
      else
        right(replace(a.run_id::text, '-', ''), length(v_tail)) = v_tail
        and (ordinaut._step_of(a.step_id)).name = p_step
    end
  order by a.approval_id desc
  limit 10;
end
$fn$;

comment on function ordinaut.find_approval(text, text) is
  'The approvals whose own id, or that of their step, ends so; with p_step those of this step of '
  'runs whose id does. Newest first, ten at most. Errors: invalid_parameter_value.';
