/*
 * Every SQLSTATE of our own.  Class OR: the standard keeps 0-4 and A-H.  Bad arguments, conflicts
 * that the same call resolves, and limits keep PostgreSQL's own codes (22023, 40001, 54000).
 */

create or replace view ordinaut.error_code (code, name, meaning, action) as
values
  ('OR001', 'lease_lost', 'The lease is gone: it was taken back, or settled whole.',
   'Stop. Discard the result; whoever leases the work next runs it again.'),
  ('OR002', 'work_cancelled', 'A cancel is requested for this work.',
   'Stop the work and settle it as cancelled.'),
  ('OR010', 'illegal_transition', 'The state machine has no such arrow.',
   'The permitted changes are the rows of ordinaut.legal_transition.'),
  ('OR020', 'not_found', 'No such task or run, or the name is not unique.',
   'Check the id or name; list_tasks() and list_runs() show them.'),
  ('OR022', 'worker_unknown', 'The worker is not registered, or was declared dead.',
   'Drop what it holds and register again under a new id.'),
  ('OR030', 'conflict', 'The name or id is taken.', 'Choose another, or update what exists.'),
  ('OR031', 'wrong_state', 'The task or run is not in a state that allows this.',
   'Look at its status, and resume or recreate it first.'),
  ('OR090', 'version_skew', 'Client and database speak different API levels.',
   'Upgrade the older one; a worker exits with 75 and is restarted.');

comment on view ordinaut.error_code is
  'Every SQLSTATE that ordinaut raises, its meaning, and what the caller should do.';
