/*
 * The one NOTIFY.  It takes a database-wide lock at commit (17 k enqueues/s fall to 3-6 k at
 * eight clients when each notifies), so it is sent only if a worker of the queue has declared
 * itself idle, and it carries nothing: a hint beside the poll.
 *
 * A worker that declares itself idle, commits, and polls once more before it waits can miss only
 * an enqueue that read before and committed after; the poll finds that one.
 */

create or replace function ordinaut._notify_idle(p_queue text)
returns void
language plpgsql
volatile
as $fn$
begin
  if exists (select from ordinaut.worker as w where w.is_idle and p_queue = any (w.queues)) then
    perform pg_notify('ordinaut', '');
  end if;
end
$fn$;

comment on function ordinaut._notify_idle(text) is
  'Wake the idle workers of a queue, if there are any. Sent when the caller commits.';
