-- 0004_workflow: pipelines, and the steps of the runs that follow them.
--
-- Locks: creates only.  Safe while workers run: yes.  Reversible: drop schema.

-- A definition, named by its content: tasks and runs refer to it, and nobody changes it.
create table ordinaut.pipeline (
  pipeline_id  uuid        not null,
  definition   jsonb       not null,  -- the array of steps, as it was given
  created_at   timestamptz not null,
  checked_at   timestamptz,           -- when a planner read its templates; null: none did yet
  problem      text,                  -- what that found
  constraint pipeline_pk primary key (pipeline_id)
);

create index pipeline_unchecked_idx on ordinaut.pipeline (pipeline_id) where checked_at is null;

-- Which tasks use a tool.
create index pipeline_definition_idx
  on ordinaut.pipeline using gin (definition jsonb_path_ops);
create index task_pipeline_idx on ordinaut.task (pipeline_id) where pipeline_id is not null;

-- The same, compiled: what a run copies its steps from.
create table ordinaut.pipeline_step (
  pipeline_id        uuid       not null,
  position           integer    not null,  -- 1, 2, … as written
  name               text       not null,  -- its id in the definition
  tool               text       not null,
  body               jsonb      not null,  -- what a worker is told: with, if, map, schemas
  save_as            text,
  queue              text,                 -- null: the run's; so with priority
  priority           smallint,
  timeout            interval,
  max_attempts       smallint   not null,
  retry              jsonb,
  needs              integer[]  not null,  -- positions
  followers          integer[]  not null,  -- the inverse of needs
  level              integer    not null,  -- 0: needs nothing; else one more than what it needs
  reads              integer[],            -- whose outputs its templates name; null: all before it
  has_context        boolean    not null,  -- its templates read anything at all
  continue_on_error  boolean    not null,
  skip_with_needs    boolean    not null,  -- skipped when all that it needs was
  on_rollback        jsonb,                -- {uses, with, …}: what undoes it
  constraint pipeline_step_pk primary key (pipeline_id, position),
  constraint pipeline_step_name_key unique (pipeline_id, name),
  constraint pipeline_step_pipeline_fk foreign key (pipeline_id)
    references ordinaut.pipeline (pipeline_id) on delete cascade
);

-- One row per step of a run, from the run's start.  step_id begins with the time of the run's id:
-- both are in the partition of the same week.
create table ordinaut.step (
  step_id         uuid        not null,
  run_id          uuid        not null,
  position        integer     not null,   -- items of a map and rollbacks follow the pipeline's own
  defined_by      integer     not null,   -- the position in the pipeline that says what it does
  kind            text,                   -- item | rollback; null: a step of the pipeline
  name            text        not null,
  state           text        not null,
  waits_for       integer     not null,   -- needs, or items, that have not ended
  attempt         smallint    not null,
  failures        smallint    not null,
  crashes         smallint    not null,
  map_step_id     uuid,                   -- of an item
  item            jsonb,
  wait            jsonb,                  -- what a control step waits for; it holds no worker
  output          jsonb,
  error           jsonb,
  retry_after     interval,               -- the delay that the last failure asked for
  next_retry_at   timestamptz,
  created_at      timestamptz not null,
  started_at      timestamptz,            -- of the last attempt
  finished_at     timestamptz,
  worker_id       uuid,
  lease_id        uuid,                   -- the lease that settled it
  constraint step_pk primary key (step_id),
  constraint step_state_known
    check (state in ('pending', 'ready', 'in_progress', 'complete', 'error', 'waiting_for_retry',
                     'skipped', 'cancelled', 'resolved_manually')),
  constraint step_kind_known check (kind in ('item', 'rollback'))
)
partition by range (step_id);

create index step_run_idx on ordinaut.step (run_id, position);
create index step_map_idx on ordinaut.step (map_step_id, position) where map_step_id is not null;

create table ordinaut.step_default
  partition of ordinaut.step default
  with (fillfactor = 60);
