/*
 * Ids: UUIDv7.  Their first 48 bits are milliseconds since 1970, so they sort by time, and the
 * history tables are partitioned by them.
 */

-- The version nibble of a v4 is 0100, of a v7 0111: two bits make the difference.
create or replace function ordinaut._v7(p_prefix bytea)
returns uuid
language sql
volatile
parallel safe
as $fn$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid()) placing p_prefix from 1 for 6), 52, 1), 53, 1),
    'hex')::uuid;
$fn$;

comment on function ordinaut._v7(bytea) is 'A UUIDv7 with these 48 bits of time.';

create or replace function ordinaut._v7_prefix(p_at timestamptz)
returns bytea
language sql
immutable
parallel safe
as $fn$
  -- Through UTC, because extract() of a timestamptz is only stable: then this is not inlined, and
  -- parsed again in every transaction that makes an id.
  select substring(
    int8send((extract(epoch from p_at at time zone 'UTC') * 1000)::bigint) from 3);
$fn$;

comment on function ordinaut._v7_prefix(timestamptz) is 'The 48 bits of time that begin a UUIDv7.';

create or replace function ordinaut.uuid_generate_v7(p_at timestamptz default null)
returns uuid
language sql
volatile
parallel safe
as $fn$
  select ordinaut._v7(ordinaut._v7_prefix(coalesce(p_at, ordinaut.now())));
$fn$;

comment on function ordinaut.uuid_generate_v7(timestamptz) is
  'A new UUIDv7 of the given instant (null: now). Sorts by time to the millisecond.';

create or replace function ordinaut._v7_floor(p_at timestamptz)
returns uuid
language sql
immutable
parallel safe
as $fn$
  select (encode(ordinaut._v7_prefix(p_at), 'hex') || '00000000000000000000')::uuid;
$fn$;

comment on function ordinaut._v7_floor(timestamptz) is
  'The lowest uuid whose time is this instant: a partition bound.';

create or replace function ordinaut._v7_time(p_id uuid)
returns timestamptz
language sql
immutable
parallel safe
as $fn$
  select to_timestamp(
    ('x' || lpad(left(replace(p_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);
$fn$;

comment on function ordinaut._v7_time(uuid) is
  'The instant in a UUIDv7. Meaningless for other versions.';

-- Steps share the 48 bits of time of their run: said to the planner, one partition is looked at
-- instead of all.
create or replace function ordinaut._step_floor(p_run_id uuid)
returns uuid
language sql
immutable
parallel safe
as $fn$
  select overlay(p_run_id::text placing '-0000-0000-000000000000' from 14 for 23)::uuid;
$fn$;

comment on function ordinaut._step_floor(uuid) is 'No step of this run has a lower id.';

create or replace function ordinaut._step_ceiling(p_run_id uuid)
returns uuid
language sql
immutable
parallel safe
as $fn$
  select overlay(p_run_id::text placing '-ffff-ffff-ffffffffffff' from 14 for 23)::uuid;
$fn$;

comment on function ordinaut._step_ceiling(uuid) is 'No step of this run has a higher id.';
