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
