-- Replaces ordinaut.now() in test databases: each session keeps its own clock, so a test can also
-- make two sessions disagree about the time.
create or replace function ordinaut.now()
returns timestamptz
language sql
stable
parallel safe
as $fn$
  select coalesce(nullif(current_setting('test.now', true), '')::timestamptz, statement_timestamp());
$fn$;
