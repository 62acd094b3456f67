-- 0001_task: what people define: tasks, their schedules, and what became of each occurrence.
--
-- Locks: creates only.  Safe while workers run: yes.  Reversible: drop schema.

-- Named times at which the tasks that exclude them do not fire.
create table ordinaut.calendar (
  namespace  text        not null,
  name       text        not null,
  data       jsonb       not null, -- dates, ranges, weekly
  timezone   text        not null, -- of the wall times in data
  note       text,
  updated_at timestamptz not null,
  updated_by text        not null,
  constraint calendar_pk primary key (namespace, name)
);

create table ordinaut.task (
  task_id           uuid        not null,
  namespace         text        not null, -- a label, not a wall
  name              text        not null,
  description       text,
  tool              text        not null,
  payload           jsonb       not null,
  pipeline_id       uuid,                 -- a task of steps: its tool is 'pipeline'
  queue             text        not null,
  priority          integer     not null, -- 1 is leased first
  schedule_kind     text        not null,
  schedule_expr     text,
  timezone          text        not null,
  dst_gap           text,                 -- null: the rule of the kind
  dst_overlap       text,
  exclude           text[],               -- calendars of its namespace; it does not fire in them
  start_at          timestamptz,          -- no occurrence before it; anchor and DTSTART
  end_at            timestamptz,
  key               text,                 -- at most key_limit runs with this key at once
  key_limit         integer     not null,
  max_attempts      integer     not null,
  retry             jsonb,                -- null: the defaults of ordinaut._backoff
  timeout           interval,
  catchup           text        not null,
  grace             interval    not null,
  catchup_window    interval,             -- older occurrences are missed; null: none is too old
  catchup_rate      integer,              -- made-up runs a minute; null: all at once
  overlap           text        not null, -- when it is due while a run of it is live
  jitter            interval,             -- its runs start up to so much later, always the same
  max_runs          integer,              -- then it is completed
  pause_on_failure  integer,              -- so many failures in a row pause it
  status            text        not null,
  status_note       text,
  status_by         text        not null,
  status_at         timestamptz not null,
  revision          integer     not null,
  created_at        timestamptz not null,
  created_by        text        not null,
  updated_at        timestamptz not null,
  constraint task_pk primary key (task_id),
  constraint task_name_key unique (namespace, name),
  constraint task_status_known
    check (status in ('active', 'paused', 'completed', 'cancelled', 'invalid')),
  constraint task_schedule_kind_known
    check (schedule_kind in ('once', 'interval', 'cron', 'rrule', 'union', 'condition', 'event',
                             'manual')),
  constraint task_dst_gap_known check (dst_gap in ('shift', 'skip')),
  constraint task_dst_overlap_known check (dst_overlap in ('first', 'second', 'both')),
  constraint task_overlap_known
    check (overlap in ('allow', 'skip', 'buffer_one', 'buffer_all', 'cancel_other')),
  constraint task_catchup_known check (catchup in ('all', 'latest', 'none')),
  constraint task_priority_range check (priority between 1 and 9),
  constraint task_key_limit_positive check (key_limit >= 1),
  constraint task_max_attempts_positive check (max_attempts >= 1)
)
with (fillfactor = 80);

create index task_exclude_idx
  on ordinaut.task (namespace)
  where exclude is not null;

-- One narrow row per task, apart from the definition: it changes at every firing.
create table ordinaut.task_schedule (
  task_id        uuid        not null,
  revision       integer     not null,   -- of the definition that planned this row
  next_run       timestamptz,            -- null: nothing is planned
  -- The rest of the plan is for what a planner expands (ordinaut._is_planned); else null.
  upcoming       timestamptz[],          -- null: to be planned
  dst            jsonb,                  -- {"2027-03-14T07:00:00Z": "gap …"}: what DST did to them
  excluded       jsonb,                  -- {"2027-12-25T08:00:00Z": "calendar …"}: do not fire
  planned_until  timestamptz,            -- nothing but upcoming occurs up to here
  planned_at     timestamptz,
  tzdata         text,                   -- the IANA release that planned upcoming
  is_exhausted   boolean     not null default false,  -- nothing occurs after upcoming
  plan_after     timestamptz,            -- nothing up to here is wanted
  replan_at      timestamptz,            -- when the plan runs short; null: never
  fired_until    timestamptz,            -- decided up to here; only moves forward
  catchup_at     timestamptz,            -- when the next made-up run may start
  -- Of kinds whose next occurrence something has to tell: a run's end, or a condition.
  look_at        timestamptz,            -- when to look next; null: never
  awaits_run     uuid,                   -- the run whose end is waited for
  is_met         boolean,                -- what the condition was; null: not known yet
  met_at         timestamptz,            -- since when
  look_error     text,                   -- why the last look, or the last few, failed
  look_failures  integer     not null default 0,
  last_run       timestamptz,
  fired_count    bigint      not null default 0,
  missed_count   bigint      not null default 0,
  skipped_count  bigint      not null default 0,
  buffered_count bigint      not null default 0,
  dropped_count  bigint      not null default 0,
  excluded_count bigint      not null default 0,
  constraint task_schedule_pk primary key (task_id),
  constraint task_schedule_task_fk
    foreign key (task_id) references ordinaut.task (task_id) on delete cascade
)
with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index task_schedule_next_idx
  on ordinaut.task_schedule (next_run)
  where next_run is not null;
create index task_schedule_replan_idx
  on ordinaut.task_schedule (replan_at)
  where replan_at is not null;

create index task_schedule_look_idx
  on ordinaut.task_schedule (look_at)
  where look_at is not null;

-- The primary key is what makes firing twice impossible, however many schedulers run.
create table ordinaut.occurrence (
  task_id        uuid        not null,
  scheduled_for  timestamptz not null,
  decision       text        not null,
  reason         text,
  dst            text,                   -- what a change of the clocks did to it
  run_id         uuid,
  decided_at     timestamptz not null,
  backfill_id    uuid,                   -- that made it fire
  constraint occurrence_pk primary key (task_id, scheduled_for),
  constraint occurrence_decision_known
    check (decision in ('fired', 'skipped', 'missed', 'buffered', 'dropped', 'excluded')),
  constraint occurrence_fired_has_run
    check ((decision in ('fired', 'buffered')) = (run_id is not null))
)
partition by range (scheduled_for);

create table ordinaut.occurrence_default
  partition of ordinaut.occurrence default;

-- What somebody asked to be made up for; a planner expands what SQL cannot.
create table ordinaut.backfill (
  backfill_id  uuid        not null,     -- a UUIDv7: requests are worked off in their order
  task_id      uuid        not null,
  revision     integer     not null,     -- of the definition when it was asked for
  from_at      timestamptz not null,
  to_at        timestamptz not null,     -- not in it
  at_most      integer     not null,     -- more occurrences than that: none fires
  rate         integer,                  -- runs a minute; null: all at once
  state        text        not null,
  fired        integer,
  left_alone   integer,                  -- had fired before
  first_at     timestamptz,              -- of those that fired
  last_at      timestamptz,
  reason       text,                     -- why it failed or was cancelled
  note         text,
  created_at   timestamptz not null,
  created_by   text        not null,
  ended_at     timestamptz,
  constraint backfill_pk primary key (backfill_id),
  constraint backfill_task_fk
    foreign key (task_id) references ordinaut.task (task_id) on delete cascade,
  constraint backfill_state_known check (state in ('pending', 'done', 'cancelled', 'failed')),
  constraint backfill_ended_iff_not_pending check ((state = 'pending') = (ended_at is null)),
  constraint backfill_range check (from_at < to_at)
);

create index backfill_task_idx on ordinaut.backfill (task_id, backfill_id);
create index backfill_pending_idx on ordinaut.backfill (backfill_id) where state = 'pending';
