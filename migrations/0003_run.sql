-- 0003_run: history: what became of each run, and the journal.
--
-- Locks: creates only.  Safe while workers run: yes.  Reversible: drop schema.

-- Partitioned by run_id, whose first 48 bits are its time; ordinaut.ensure_partitions() makes
-- the partitions, and what fits none of them goes to the default one.
create table ordinaut.task_run (
  run_id           uuid        not null,
  task_id          uuid,
  tool             text        not null,
  queue            text        not null,
  priority         smallint    not null,
  state            text        not null,
  attempt          smallint    not null,
  failures         smallint    not null,
  crashes          smallint    not null,
  max_attempts     smallint    not null,
  worker_id        uuid,
  lease_id         uuid,                  -- the lease that settled it: a repeated settle knows itself
  enqueued_at      timestamptz not null,
  scheduled_for    timestamptz,
  started_at       timestamptz,
  finished_at      timestamptz,
  timeout          interval,
  key              text,
  key_limit        integer,
  idempotency_key  text,
  retry            jsonb,
  retry_of         uuid,
  payload          jsonb,
  output           jsonb,
  error            jsonb,                 -- of a run of steps that still runs: it is failing
  pipeline_id      uuid,                  -- a run of steps: it has this row from its start
  constraint task_run_pk primary key (run_id),
  constraint task_run_state_known
    check (state in ('pending', 'running', 'waiting', 'success', 'failed', 'cancelled',
                     'timed_out', 'abandoned')),
  constraint task_run_finished_iff_terminal
    check ((state in ('success', 'failed', 'cancelled', 'timed_out', 'abandoned'))
           = (finished_at is not null))
)
partition by range (run_id);

create index task_run_task_idx on ordinaut.task_run (task_id, run_id) where task_id is not null;
-- What people look for among the finished; success stays out of it to keep completion cheap.
create index task_run_unhappy_idx on ordinaut.task_run (state, run_id) where state <> 'success';

-- The pipelines still referred to; and, of the rows from before their end, the live runs.
create index task_run_pipeline_idx on ordinaut.task_run (pipeline_id)
  where pipeline_id is not null;
create index task_run_live_idx on ordinaut.task_run (task_id) where finished_at is null;

create table ordinaut.task_run_default
  partition of ordinaut.task_run default;

-- The journal.  log_id is a UUIDv7 of the entry's own time and the partition key.
create table ordinaut.run_log (
  log_id     uuid        not null,
  at         timestamptz not null,
  event      text        not null,
  run_id     uuid,
  step       text,
  task_id    uuid,
  queue      text,
  attempt    integer,
  worker_id  uuid,
  lease_id   uuid,
  actor      text        not null,
  detail     jsonb,
  constraint run_log_pk primary key (log_id)
)
partition by range (log_id);

create index run_log_run_idx on ordinaut.run_log (run_id) where run_id is not null;
create index run_log_task_idx on ordinaut.run_log (task_id, log_id) where task_id is not null;

create table ordinaut.run_log_default
  partition of ordinaut.run_log default;
