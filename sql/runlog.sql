/*
 * The journal: what did not simply succeed, what operators did, what tools said.  A run that
 * succeeds at its first attempt leaves no line here: its row in task_run has its timestamps, and
 * a row per transition would more than double its cost.
 *
 * Append-only: nobody has rights on the table, and the trigger refuses its owner too.  Retention
 * drops whole partitions.
 */

create or replace function ordinaut._actor()
returns text
language sql
stable
as $fn$
  select session_user
    || coalesce(' (' || nullif(current_setting('application_name', true), '') || ')', '');
$fn$;

comment on function ordinaut._actor() is 'Who acts: the login role, and the application''s name.';

create or replace function ordinaut._journal(
  p_event text,
  p_run_id uuid default null,
  p_task_id uuid default null,
  p_queue text default null,
  p_attempt integer default null,
  p_worker_id uuid default null,
  p_lease_id uuid default null,
  p_detail jsonb default null,
  p_step text default null
)
returns void
language sql
volatile
as $fn$
  insert into ordinaut.run_log (log_id, at, event, run_id, step, task_id, queue, attempt,
    worker_id, lease_id, actor, detail)
  values (ordinaut.uuid_generate_v7(), ordinaut.now(), p_event, p_run_id, p_step, p_task_id,
    p_queue, p_attempt, p_worker_id, p_lease_id, ordinaut._actor(), p_detail);
$fn$;

comment on function ordinaut._journal(text, uuid, uuid, text, integer, uuid, uuid, jsonb, text) is
  'Append one line to the journal.';

create or replace function ordinaut._refuse_rewrite()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  raise exception using
    errcode = 'OR010',
    message = format('the journal is append-only: %s refused', lower(tg_op)),
    hint = 'ordinaut.prune() drops old entries, whole partitions at a time.';
end
$fn$;

comment on function ordinaut._refuse_rewrite() is
  'Refuse update, delete and truncate of the journal (OR010).';

create or replace trigger run_log_append_only
  before update or delete on ordinaut.run_log
  for each row
  execute function ordinaut._refuse_rewrite();

create or replace trigger run_log_no_truncate
  before truncate on ordinaut.run_log
  for each statement
  execute function ordinaut._refuse_rewrite();
