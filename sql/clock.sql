/*
 * The only clock.  Everything that decides by time asks ordinaut.now(), once per call, and the
 * clock is the server's: a client's time decides nothing.
 *
 * statement_timestamp() and not now(): inside a long transaction now() stands still, and a lease
 * taken there would begin in the past.
 */

create or replace function ordinaut.now()
returns timestamptz
language sql
stable
parallel safe
as $fn$
  select statement_timestamp();
$fn$;

comment on function ordinaut.now() is
  'The time by which the engine decides: the start of the caller''s statement, on the server.';

-- A plan tells by instant what a change of the clocks, or a calendar, does to an occurrence.
create or replace function ordinaut._told(p_by_instant jsonb, p_at timestamptz)
returns text
language sql
stable
as $fn$
  select case
    when p_by_instant is not null
      then p_by_instant ->> to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
  end;
$fn$;

comment on function ordinaut._told(jsonb, timestamptz) is
  'What an object such as {"2027-03-14T07:00:00Z": "gap"} says of an instant; null: nothing.';
