-- 0006_wait: what steps wait for: events, the answers of people, the ends of child runs.
--
-- Locks: creates only.  Safe while workers run: yes.  Reversible: drop schema.

-- Every event that was emitted: one may come before the step that waits for it.
create table ordinaut.event (
  event_id    uuid        not null,
  topic       text        not null,
  key         text,
  payload     jsonb       not null,
  emitted_at  timestamptz not null,
  emitted_by  text        not null,
  is_open     boolean     not null,  -- somebody was busy or not seen: a sweep looks again
  unfired     uuid[],                -- the tasks of kind event that were
  constraint event_pk primary key (event_id)
)
partition by range (event_id);

create index event_topic_idx on ordinaut.event (topic, emitted_at);
create index event_key_idx on ordinaut.event (topic, key, emitted_at) where key is not null;
create index event_open_idx on ordinaut.event (emitted_at) where is_open;

create table ordinaut.event_default
  partition of ordinaut.event default;

-- The parked unit of a waiting step is the waiter: gone from there, it waits no more.
create index parked_event_idx
  on ordinaut.parked ((payload ->> 'topic'), (payload ->> 'key'))
  where reason = 'event';
create index parked_unsure_idx
  on ordinaut.parked (work_id)
  where reason = 'event' and payload ? 'unsure';
create index parked_deadline_idx
  on ordinaut.parked (run_at)
  where reason in ('event', 'approval') and payload ? 'deadline';

-- What people are asked, and the one decision that was made.
create table ordinaut.approval (
  approval_id  uuid        not null,
  step_id      uuid        not null,
  run_id       uuid        not null,
  prompt       text        not null,
  schema       jsonb,                 -- of the response
  data         jsonb,                 -- for whoever answers
  responders   text[],                -- roles, whose members may; null: whoever may call respond()
  created_at   timestamptz not null,
  expires_at   timestamptz,
  decision     text,                  -- null: none yet
  response     jsonb,
  note         text,
  decided_at   timestamptz,
  decided_by   text,
  constraint approval_pk primary key (approval_id),
  constraint approval_decision_known check (decision in ('answered', 'cancelled', 'expired')),
  constraint approval_decided_iff_decision check ((decision is null) = (decided_at is null))
);

create index approval_step_idx on ordinaut.approval (step_id);
create index approval_created_idx on ordinaut.approval (created_at);

-- Child runs that ended while the run that waits for them was busy: normally empty.
create table ordinaut.unheard_end (
  run_id    uuid        not null,
  step_id   uuid        not null,     -- that waits
  ended_at  timestamptz not null,
  constraint unheard_end_pk primary key (run_id)
);

create index task_event_idx on ordinaut.task (schedule_expr) where schedule_kind = 'event';

-- The runs that a step started: they are named by this key.
create index task_run_child_idx on ordinaut.task_run (idempotency_key)
  where idempotency_key like 'child:%';
