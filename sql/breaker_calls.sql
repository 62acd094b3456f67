/*
 * Circuit breakers, as people and programs see them; breaker.sql has how they work.
 */

create or replace view ordinaut.breaker_status as
select
  b.name,
  array(select t.tool from ordinaut.breaker_tool as t where t.name = b.name order by 1) as tools,
  b.state, b.failures, b.threshold,
  b.time_window as "window", b.recovery, b.categories, b.changed_at, b.changed_by, b.note,
  b.probe_at, b.probe_id,
  (
    select count(*)
    from ordinaut.parked as p
    join ordinaut.breaker_tool as t on t.tool = p.tool and t.name = b.name
    where p.reason = 'breaker'
  ) as parked
from ordinaut.breaker as b;

comment on view ordinaut.breaker_status is
  'Every circuit breaker: what it guards, its state since changed_at, failures in a row of '
  'threshold within window, who forced it (changed_by) and why, or the last error that counted '
  '(note), when the next unit tries (probe_at), and how much work waits behind it.';

create or replace function ordinaut.list_breakers()
returns setof ordinaut.breaker_status
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select b.* from ordinaut.breaker_status as b order by b.name;
$fn$;

comment on function ordinaut.list_breakers() is 'Every circuit breaker, as in breaker_status.';

create or replace function ordinaut._breaker_said(p_breaker ordinaut.breaker)
returns text
language sql
stable
as $fn$
  select format('Circuit breaker is %s: %s ', case p_breaker.state
      when 'half_open' then 'HALF OPEN' else upper(p_breaker.state) end, p_breaker.name)
    || case
      when p_breaker.changed_by is not null then format('was made %s by %s%s',
        p_breaker.state, p_breaker.changed_by, coalesce(': ' || p_breaker.note, ''))
      when p_breaker.state = 'closed' then 'lets work through'
      when p_breaker.state = 'half_open' then format('lets one unit try, %s', p_breaker.probe_id)
      else format('after %s failures in a row%s; one unit tries at %s', p_breaker.failures,
        coalesce(' (' || p_breaker.note || ')', ''), p_breaker.probe_at)
    end;
$fn$;

comment on function ordinaut._breaker_said(ordinaut.breaker) is 'A breaker''s state as a sentence.';

create or replace function ordinaut._why_breaker(p_tool text)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select 'breaker',
    case
      when b.state = 'closed' then 'its circuit breaker has closed: the next reap() makes it due'
      else ordinaut._breaker_said(b)
    end,
    b.changed_at, b.probe_at, b.name
  from ordinaut.breaker_tool as t
  join ordinaut.breaker as b on b.name = t.name
  where t.tool = p_tool;
$fn$;

comment on function ordinaut._why_breaker(text) is
  'What the circuit breaker of a tool has to say to work that is parked behind it.';

-- Operators wait for the row.
create or replace function ordinaut._breaker(p_name text)
returns ordinaut.breaker
language plpgsql
volatile
as $fn$
declare
  v_breaker ordinaut.breaker;
begin
  select b.* into v_breaker from ordinaut.breaker as b where b.name = p_name for no key update;
  if not found then
    raise exception using
      errcode = 'OR020',
      message = format('there is no circuit breaker %L', p_name),
      hint = 'list_breakers() shows them; set_breaker() makes one.';
  end if;
  return v_breaker;
end
$fn$;

comment on function ordinaut._breaker(text) is 'A breaker, with its row held. Errors: OR020.';

create or replace function ordinaut.set_breaker(
  p_name       text,
  p_tools      text[]   default null,
  p_threshold  integer  default 5,
  p_window     interval default '60 s',
  p_recovery   interval default '60 s',
  p_categories text[]   default '{network,external_service,timeout,resource}'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_tools text[] := coalesce(p_tools, array[p_name]);
  v_tool text;
  v_other record;
  v_now timestamptz := ordinaut.now();
begin
  perform ordinaut._check_tool(p_name);
  if cardinality(v_tools) = 0 then
    perform ordinaut._refuse(format('breaker %s guards no tool', p_name),
      'drop_breaker() takes one away.');
  end if;
  foreach v_tool in array v_tools loop
    perform ordinaut._check_tool(v_tool);
  end loop;
  perform ordinaut._check_count('threshold', p_threshold, 1, 1000000);
  perform ordinaut._check_span('window', coalesce(p_window, '-1 s'), '1 s', '30 days');
  perform ordinaut._check_span('recovery', coalesce(p_recovery, '-1 s'), '1 ms', '30 days');
  if not coalesce(cardinality(p_categories) > 0 and p_categories <@ array(
    select c.category from ordinaut.error_category as c), false)
  then
    perform ordinaut._refuse(
      format('categories %s are not categories of errors', coalesce(p_categories::text, 'null')),
      'ordinaut.error_category lists them.');
  end if;
  select t.tool, t.name into v_other
  from ordinaut.breaker_tool as t
  where t.tool = any (v_tools) and t.name <> p_name
  order by t.tool
  limit 1;
  if found then
    raise exception using
      errcode = 'OR030',
      message = format('tool %s is guarded by breaker %s', v_other.tool, v_other.name),
      hint = 'A tool has one breaker at most: set that one without it first.';
  end if;

  insert into ordinaut.breaker as b (name, threshold, time_window, recovery, categories, state,
    failures, changed_at)
  values (p_name, p_threshold, p_window, p_recovery, p_categories, 'closed', 0, v_now)
  on conflict on constraint breaker_pk do update
  set
    threshold = excluded.threshold,
    time_window = excluded.time_window,
    recovery = excluded.recovery,
    categories = excluded.categories;
  perform ordinaut._unguard(p_name, v_tools);
  insert into ordinaut.breaker_tool (tool, name)
  select distinct u.tool, p_name
  from unnest(v_tools) as u (tool)
  where u.tool <> all (ordinaut._breaker_tools(p_name));
  perform ordinaut._journal('breaker_set', p_detail => jsonb_build_object(
    'breaker', p_name, 'tools', v_tools, 'threshold', p_threshold, 'window', p_window,
    'recovery', p_recovery, 'categories', p_categories));
end
$fn$;

comment on function ordinaut.set_breaker(text, text[], integer, interval, interval, text[]) is
  'Guard tools (null: the one of that name) by a circuit breaker: p_threshold failures in a row '
  'within p_window, of these categories, open it; while it is open their work is parked, and '
  'after p_recovery one unit tries. Set again, it keeps its state. Errors: OR030 (another '
  'breaker guards the tool), invalid_parameter_value.';

create or replace function ordinaut._unguard(p_name text, p_keep text[])
returns void
language plpgsql
volatile
as $fn$
declare
  v_gone text[];
begin
  with gone as (
    delete from ordinaut.breaker_tool as t
    where t.name = p_name and t.tool <> all (p_keep)
    returning t.tool
  )
  select array_agg(g.tool) into v_gone from gone as g;
  perform ordinaut._unpark_breaker(v_gone, b.probe_id)
  from ordinaut.breaker as b
  where b.name = p_name;
end
$fn$;

comment on function ordinaut._unguard(text, text[]) is
  'Take all other tools from a breaker; what it held back of them becomes due.';

create or replace function ordinaut.drop_breaker(p_name text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._breaker(p_name);
  perform ordinaut._unguard(p_name, '{}');
  delete from ordinaut.breaker as b where b.name = p_name;
  perform ordinaut._journal('breaker_dropped',
    p_detail => jsonb_build_object('breaker', p_name, 'note', p_note));
end
$fn$;

comment on function ordinaut.drop_breaker(text, text) is
  'Take a breaker away; what it held back becomes due. Errors: OR020.';

create or replace function ordinaut.open_breaker(p_name text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_breaker ordinaut.breaker := ordinaut._breaker(p_name);
begin
  v_breaker.changed_by := ordinaut._actor();
  v_breaker.note := p_note;
  perform ordinaut._open_breaker(v_breaker, null, ordinaut.now());
  perform ordinaut._journal('breaker_opened',
    p_detail => jsonb_build_object('breaker', p_name, 'note', p_note));
end
$fn$;

comment on function ordinaut.open_breaker(text, text) is
  'Keep a breaker open, until close_breaker() or reset_breaker(): no unit tries. Errors: OR020.';

create or replace function ordinaut.close_breaker(p_name text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._close_breaker(
    ordinaut._breaker(p_name), ordinaut._actor(), p_note, ordinaut.now());
  perform ordinaut._journal('breaker_closed',
    p_detail => jsonb_build_object('breaker', p_name, 'note', p_note));
end
$fn$;

comment on function ordinaut.close_breaker(text, text) is
  'Keep a breaker closed, until open_breaker() or reset_breaker(), whatever fails. What it held '
  'back becomes due. Errors: OR020.';

create or replace function ordinaut.reset_breaker(p_name text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._close_breaker(ordinaut._breaker(p_name), null, null, ordinaut.now());
  perform ordinaut._journal('breaker_reset',
    p_detail => jsonb_build_object('breaker', p_name, 'note', p_note));
end
$fn$;

comment on function ordinaut.reset_breaker(text, text) is
  'Close a breaker and let it decide by itself again, counting from zero. Errors: OR020.';

create or replace function ordinaut.breaker_allows(p_name text)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_breaker ordinaut.breaker;
begin
  select b.* into v_breaker
  from ordinaut.breaker as b
  where b.name = coalesce(
    (select t.name from ordinaut.breaker_tool as t where t.tool = p_name), p_name);
  if not found then
    raise exception using
      errcode = 'OR020',
      message = format('there is no circuit breaker %L, nor one for such a tool', p_name),
      hint = 'list_breakers() shows them; set_breaker() makes one.';
  elsif v_breaker.state = 'half_open'
    or v_breaker.state = 'open' and coalesce(v_breaker.probe_at > ordinaut.now(), true)
  then
    raise exception using
      errcode = 'OR031',
      message = ordinaut._breaker_said(v_breaker),
      hint = 'Do not call the service now. reset_breaker() closes it by hand.';
  end if;
  return true;
end
$fn$;

comment on function ordinaut.breaker_allows(text) is
  'Ask the breaker of this name, or of this tool, before a call of one''s own: true, or an error '
  'that says since when it is open and until when. It only looks: who calls is no probe. Errors: '
  'OR020, OR031 (Circuit breaker is OPEN).';
