/*
 * Deny to public; then one table of role and function.  Roles are cluster-wide and made only if
 * the installer may make them; deploy/roles.sql is for a DBA where it may not.  Nobody gets a
 * right on a table.
 */

do $do$
declare
  v_owner constant name := current_user;
  v_role text;
begin
  -- The owner may make no roles; who installs, perhaps.
  set local role none;
  foreach v_role in array
    array['ordinaut_viewer', 'ordinaut_producer', 'ordinaut_worker', 'ordinaut_admin']
  loop
    continue when exists (select from pg_roles as r where r.rolname = v_role) or not (
      select r.rolcreaterole or r.rolsuper from pg_roles as r where r.rolname = current_user
    );
    begin
      execute format('create role %I nologin', v_role);
    exception
      -- Another database of this cluster installs at the same moment.
      when duplicate_object or unique_violation then null;
    end;
  end loop;
  perform set_config('role', v_owner, true);

  -- What somebody makes here by hand is nobody's until it is granted.  This can be said of all
  -- that a role makes, not of a schema: so only where the role makes nothing else.
  if v_owner = 'ordinaut_owner' then
    alter default privileges revoke execute on functions from public;
    alter default privileges revoke usage on types from public;
  end if;
end
$do$;

revoke all on schema ordinaut from public;
revoke all on all tables in schema ordinaut from public;
revoke all on all functions in schema ordinaut from public;

do $do$
declare
  v_role text;
  v_grant record;
begin
  foreach v_role in array
    array['ordinaut_viewer', 'ordinaut_producer', 'ordinaut_worker', 'ordinaut_admin']
  loop
    continue when not exists (select from pg_roles as r where r.rolname = v_role);

    execute format('revoke all on all functions in schema ordinaut from %I', v_role);
    execute format('grant usage on schema ordinaut to %I', v_role);
    for v_grant in
      select p.oid::regprocedure::text as name
      from pg_proc as p
      join (values
        ('now', '{viewer,producer,worker,admin}'::text[]),
        ('uuid_generate_v7', '{viewer,producer,worker,admin}'),
        -- Called by views, with the rights of whoever reads them.
        ('_told', '{viewer,admin}'),
        ('_v7_floor', '{viewer,admin}'),
        ('_child_step', '{viewer,admin}'),
        ('_v7_prefix', '{viewer,admin}'),
        ('get_run', '{viewer,producer,worker,admin}'),
        ('list_runs', '{viewer,producer,admin}'),
        ('find_run', '{viewer,producer,admin}'),
        ('run_history', '{viewer,producer,admin}'),
        ('get_task', '{viewer,producer,admin}'),
        ('list_tasks', '{viewer,producer,admin}'),
        ('get_calendar', '{viewer,producer,admin}'),
        ('list_calendars', '{viewer,producer,admin}'),
        ('why', '{viewer,producer,admin}'),
        ('diagnose', '{viewer,admin}'),
        ('get_step_readiness_status', '{viewer,producer,worker,admin}'),
        ('get_step_readiness_status_batch', '{viewer,producer,worker,admin}'),
        ('get_task_execution_context', '{viewer,producer,worker,admin}'),
        ('get_task_execution_contexts_batch', '{viewer,producer,worker,admin}'),
        ('calculate_dependency_levels', '{viewer,producer,admin}'),
        ('get_step_transitive_dependencies', '{viewer,producer,admin}'),
        ('step_history', '{viewer,producer,admin}'),
        ('find_step', '{viewer,producer,admin}'),
        ('list_steps', '{viewer,producer,admin}'),
        ('run_tree', '{viewer,producer,admin}'),
        ('preview', '{viewer,producer,admin}'),
        ('forecast', '{viewer,producer,admin}'),
        ('list_backfills', '{viewer,producer,admin}'),
        ('list_approvals', '{viewer,producer,admin}'),
        ('find_approval', '{viewer,producer,admin}'),
        ('respond', '{producer,admin}'),
        ('cancel_approval', '{producer,admin}'),
        ('emit_event', '{producer,worker,admin}'),
        ('classify_error', '{viewer,producer,worker,admin}'),
        ('calculate_backoff_delay', '{viewer,producer,worker,admin}'),
        ('advise_retry', '{viewer,producer,worker,admin}'),
        ('list_retry_policies', '{viewer,producer,admin}'),
        ('list_breakers', '{viewer,producer,admin}'),
        ('breaker_allows', '{viewer,producer,worker,admin}'),
        ('get_stuck_runs', '{viewer,producer,admin}'),
        ('get_error_statistics', '{viewer,producer,admin}'),
        ('get_execution_statistics', '{viewer,producer,admin}'),
        ('get_failed_runs_for_recovery', '{viewer,producer,admin}'),
        ('enqueue', '{producer,admin}'),
        ('enqueue_many', '{producer,admin}'),
        ('run_now', '{producer,admin}'),
        ('cancel_run', '{producer,admin}'),
        ('cancel_runs', '{producer,admin}'),
        ('register_worker', '{worker,admin}'),
        ('deregister_worker', '{worker,admin}'),
        ('lease_work', '{worker,admin}'),
        ('exchange', '{worker,admin}'),
        ('heartbeat', '{worker,admin}'),
        ('complete_work', '{worker,admin}'),
        ('fail_work', '{worker,admin}'),
        ('release_work', '{worker,admin}'),
        ('snooze_work', '{worker,admin}'),
        ('skip_work', '{worker,admin}'),
        ('wait_work', '{worker,admin}'),
        ('evaluate_step_failure', '{worker,admin}'),
        ('start_run', '{worker,admin}'),
        ('assert_lease', '{worker,admin}'),
        ('log_work', '{worker,admin}'),
        ('reap', '{worker,admin}'),
        ('tick', '{worker,admin}'),
        ('unplanned_tasks', '{worker,admin}'),
        ('outdate_plans', '{worker,admin}'),
        ('plan_task', '{worker,admin}'),
        ('invalidate_task', '{worker,admin}'),
        ('unchecked_pipelines', '{worker,admin}'),
        ('note_pipeline_check', '{worker,admin}'),
        ('unplanned_backfills', '{worker,admin}'),
        ('plan_backfill', '{worker,admin}'),
        ('fail_backfill', '{worker,admin}'),
        ('zone_changes', '{viewer,producer,worker,admin}'),
        ('zones_in_use', '{viewer,producer,worker,admin}'),
        ('unpolled_conditions', '{worker,admin}'),
        ('report_condition', '{worker,admin}'),
        ('create_task', '{admin}'),
        ('update_task', '{admin}'),
        ('pause_task', '{admin}'),
        ('resume_task', '{admin}'),
        ('cancel_task', '{admin}'),
        ('snooze_task', '{admin}'),
        ('backfill', '{admin}'),
        ('cancel_backfill', '{admin}'),
        ('set_calendar', '{admin}'),
        ('drop_calendar', '{admin}'),
        ('retry_run', '{admin}'),
        ('retry_failed_steps', '{admin}'),
        ('replay_run', '{admin}'),
        ('resolve_step', '{admin}'),
        ('complete_step', '{admin}'),
        ('reset_step', '{admin}'),
        ('skip_step', '{admin}'),
        ('retry_runs', '{admin}'),
        ('recover_run', '{admin}'),
        ('timeout_stuck', '{admin}'),
        ('set_retry_policy', '{admin}'),
        ('set_breaker', '{admin}'),
        ('drop_breaker', '{admin}'),
        ('open_breaker', '{admin}'),
        ('close_breaker', '{admin}'),
        ('reset_breaker', '{admin}'),
        ('pause_queue', '{admin}'),
        ('resume_queue', '{admin}'),
        ('set_queue', '{admin}'),
        ('prune', '{worker,admin}'),
        ('ensure_partitions', '{worker,admin}')
      ) as g (name, roles) on g.name = p.proname
      where
        p.pronamespace = 'ordinaut'::regnamespace
        and replace(v_role, 'ordinaut_', '') = any (g.roles)
    loop
      execute format('grant execute on function %s to %I', v_grant.name, v_role);
    end loop;
  end loop;

  foreach v_role in array array['ordinaut_viewer', 'ordinaut_admin'] loop
    continue when not exists (select from pg_roles as r where r.rolname = v_role);
    execute format(
      'grant select on ordinaut.run, ordinaut.work, ordinaut.task_status, ordinaut.queue_depth,'
      ' ordinaut.worker_status, ordinaut.late, ordinaut.failing, ordinaut.error_code,'
      ' ordinaut.error_category, ordinaut.error_class, ordinaut.breaker_status,'
      ' ordinaut.legal_transition, ordinaut.step_status, ordinaut.step_edge to %I', v_role);
  end loop;
end
$do$;
