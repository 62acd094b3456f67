-- 0005_policy: how often which kind of error is tried again, and circuit breakers.
--
-- Locks: creates only; an index on parked, which is small.  Safe while workers run: yes.
-- Reversible: drop the tables and the index.

-- No row: what the task or step says decides alone.
create table ordinaut.retry_policy (
  category      text        not null,
  max_attempts  smallint    not null,
  retry         jsonb       not null,  -- base, cap, factor, jitter, strategy, as a task has them
  set_by        text        not null,
  set_at        timestamptz not null,
  constraint retry_policy_pk primary key (category),
  constraint retry_policy_max_attempts_range check (max_attempts between 1 and 100)
);

-- One row per guarded service.  Updated at failures and at what follows from them: a breaker that
-- is closed and has counted nothing is only read.
create table ordinaut.breaker (
  name           text        not null,
  threshold      integer     not null,  -- so many failures in a row …
  time_window    interval    not null,  -- … within this time open it
  recovery       interval    not null,  -- open for so long until one unit tries
  categories     text[]      not null,  -- of the errors that count
  state          text        not null,
  failures       integer     not null,  -- in a row, since counted_from
  counted_from   timestamptz,
  changed_at     timestamptz not null,  -- when it came into this state
  changed_by     text,                  -- somebody forced the state; null: it decides by itself
  note           text,                  -- why: of who forced it; else the last error that counted
  probe_at       timestamptz,           -- open: when one unit tries; null: never
  probe_id       uuid,                  -- that unit: in due_work while open, leased while half_open
  constraint breaker_pk primary key (name),
  constraint breaker_state_known check (state in ('closed', 'open', 'half_open'))
)
with (fillfactor = 50);

-- A tool belongs to one breaker at most.
create table ordinaut.breaker_tool (
  tool  text not null,
  name  text not null,
  constraint breaker_tool_pk primary key (tool),
  constraint breaker_tool_breaker_fk foreign key (name) references ordinaut.breaker (name)
    on delete cascade
);

create index breaker_tool_name_idx on ordinaut.breaker_tool (name);
create index parked_breaker_idx on ordinaut.parked (tool, priority, run_at)
  where reason = 'breaker';
