-- 0002_work: the four places of a unit of work, but for the last (0003): due_work, parked,
-- lease; who may hold them (worker, hold, queue) and who withdraws them (cancel_request).
--
-- Locks: creates only.  Safe while workers run: yes.  Reversible: drop schema.

-- The counters are smallint here and in task_run: 20 bytes of WAL a run.  Functions and views
-- show integers.
--
-- What a lease carries.  A type of its own, append-only: the row type of due_work would block
-- `alter table`, and an attribute's type cannot change while leases use it.
create type ordinaut.work_item as (
  work_id          uuid,
  run_id           uuid,
  step             text,
  task_id          uuid,
  queue            text,
  priority         smallint,
  run_at           timestamptz,
  scheduled_for    timestamptz,
  enqueued_at      timestamptz,
  attempt          smallint,
  failures         smallint,
  crashes          smallint,
  max_attempts     smallint,
  timeout          interval,
  tool             text,
  key              text,
  key_limit        integer,
  idempotency_key  text,
  retry            jsonb,
  retry_of         uuid,
  payload          jsonb,
  pipeline_id      uuid
);

-- Insert and delete only: an update here would re-enter every index at every lease.
-- The first columns are those of work_item, in its order.
create table ordinaut.due_work (
  work_id          uuid        not null,
  run_id           uuid        not null,
  step             text,                  -- null: a whole run, work_id = run_id
  task_id          uuid,                  -- null: an ad-hoc enqueue
  queue            text        not null,
  priority         smallint    not null,
  run_at           timestamptz not null,
  scheduled_for    timestamptz,           -- the caller's wish, or the occurrence; null: at once
  enqueued_at      timestamptz not null,
  attempt          smallint    not null,  -- leases so far; never decreases
  failures         smallint    not null,
  crashes          smallint    not null,
  max_attempts     smallint    not null,
  timeout          interval,
  tool             text        not null,
  key              text,
  key_limit        integer,
  idempotency_key  text,
  retry            jsonb,
  retry_of         uuid,
  payload          jsonb,                 -- null: the body is in ordinaut.payload
  pipeline_id      uuid,                  -- of a run of steps, and of each step of it
  constraint due_work_pk primary key (work_id),
  constraint due_work_priority_range check (priority between 1 and 9),
  constraint due_work_run_at_finite check (isfinite(run_at))
)
with (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 50000
);

-- The lease reads exactly this order.  run_at is fine enough to need no tie-break: a bulk enqueue
-- spreads its items over microseconds, and 16 bytes a row are saved twice.
create index due_work_next_idx on ordinaut.due_work (queue, priority, run_at);
create index due_work_task_idx on ordinaut.due_work (task_id) where task_id is not null;
create index due_work_key_idx on ordinaut.due_work (key) where key is not null;
-- Normally empty: whether a lease must look out for work that a worker died with.
create index due_work_suspect_idx on ordinaut.due_work (queue) where crashes > 0;

-- Held back by something other than time.  Whoever removes the reason moves the row back.
create table ordinaut.parked (
  reason           text        not null,
  parked_at        timestamptz not null,
  work_id          uuid        not null,
  run_id           uuid        not null,
  step             text,
  task_id          uuid,
  queue            text        not null,
  priority         smallint    not null,
  run_at           timestamptz not null,
  scheduled_for    timestamptz,
  enqueued_at      timestamptz not null,
  attempt          smallint    not null,
  failures         smallint    not null,
  crashes          smallint    not null,
  max_attempts     smallint    not null,
  timeout          interval,
  tool             text        not null,
  key              text,
  key_limit        integer,
  idempotency_key  text,
  retry            jsonb,
  retry_of         uuid,
  payload          jsonb,
  pipeline_id      uuid,
  constraint parked_pk primary key (work_id),
  constraint parked_reason_known
    check (reason in ('key', 'tool', 'limit', 'overlap', 'breaker', 'event', 'approval', 'child',
                      'error'))
)
with (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0
);

create index parked_key_idx on ordinaut.parked (key, priority, run_at, work_id)
  where reason = 'key';
create index parked_tool_idx on ordinaut.parked (queue, tool) where reason = 'tool';
create index parked_task_idx on ordinaut.parked (task_id) where task_id is not null;

-- The one truth about who holds a key.  Slot 0: an idempotency key; slots 1..limit: the runs
-- that may be live at once.
create table ordinaut.hold (
  key         text        not null,
  slot        integer     not null,
  run_id      uuid        not null,
  keep_for    interval,               -- slot 0: how long the key outlives its run
  held_until  timestamptz,            -- null: as long as the run lives
  constraint hold_pk primary key (key, slot)
)
with (
  fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0
);

create index hold_run_idx on ordinaut.hold (run_id);
create index hold_until_idx on ordinaut.hold (held_until) where held_until is not null;

-- One row per leased batch.  The id is the fencing token: random, chosen by the lessee.
create table ordinaut.lease (
  lease_id    uuid                 not null,
  worker_id   uuid,                -- null: an ad-hoc lease, which has a holder and an end
  holder      text,
  queue       text                 not null,
  leased_at   timestamptz          not null,
  expires_at  timestamptz,         -- null: as long as the worker lives
  size        integer              not null,
  settled     uuid[]               not null default '{}',
  work        ordinaut.work_item[] not null,
  constraint lease_pk primary key (lease_id),
  constraint lease_has_lessee check (worker_id is not null or expires_at is not null)
)
with (
  fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,
  toast.autovacuum_vacuum_threshold = 2000, toast.autovacuum_vacuum_cost_delay = 0
);

create index lease_worker_idx on ordinaut.lease (worker_id);

-- One row per process start.  Heartbeats are HOT updates: no index but the key.
create table ordinaut.worker (
  worker_id    uuid        not null,
  login        text        not null,  -- the role that registered it: nobody else speaks for it
  name         text,                  -- host and pid, for people
  queues       text[]      not null,
  tools        text[]      not null,
  version      text,
  concurrency  integer     not null,
  ttl          interval    not null,
  is_idle      boolean     not null,  -- declared: a NOTIFY would wake it
  is_stale     boolean     not null default false,  -- of an API before the last install
  started_at   timestamptz not null,
  seen_at      timestamptz not null,
  constraint worker_pk primary key (worker_id)
)
with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

create table ordinaut.cancel_request (
  run_id        uuid        not null,
  requested_by  text        not null,
  requested_at  timestamptz not null,
  note          text,
  constraint cancel_request_pk primary key (run_id)
);

-- A row only for queues that somebody limited, paused or swept.
create table ordinaut.queue (
  queue               text        not null,
  paused_at           timestamptz,
  paused_by           text,
  note                text,
  max_running         integer,
  max_pending         integer,
  ageing              interval,    -- waiting this long raises the priority by one
  sweep_requested_at  timestamptz,
  constraint queue_pk primary key (queue)
)
with (fillfactor = 50);

-- Bodies too large to be copied into every lease.
create table ordinaut.payload (
  run_id  uuid  not null,
  body    jsonb not null,
  constraint payload_pk primary key (run_id)
);

-- One row: which server run the reaper knows, since when, and the highest clock it has seen.
create table ordinaut.server_epoch (
  only_row       boolean     not null,
  server_run     text        not null,
  seen_since     timestamptz not null,
  clock_high     timestamptz not null,
  constraint server_epoch_pk primary key (only_row),
  constraint server_epoch_one_row check (only_row)
);
