-- Everything that defines the schema, a row per thing: what two databases must agree on.
-- Partitions are left out, except default ones: which exist depends on the day.
with
  ours as (
    select c.*
    from pg_class as c
    left join pg_class as parent
      on parent.oid = (select i.inhparent from pg_inherits as i where i.inhrelid = c.oid)
    where
      c.relnamespace = 'ordinaut'::regnamespace
      and (
        not c.relispartition
        or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'
      )
  ),
  acl as (
    select 'pg_class'::regclass as class, c.oid, c.relacl as acl from ours as c
    union all
    select 'pg_proc'::regclass, p.oid, p.proacl from pg_proc as p
    union all
    select 'pg_namespace'::regclass, n.oid, n.nspacl from pg_namespace as n
  ),
  granted as (
    select a.class, a.oid, string_agg(item::text, ' ' order by item::text) as acl
    from acl as a
    cross join unnest(a.acl) as item
    group by a.class, a.oid
  )
select 'function' as kind, p.oid::regprocedure::text as name,
  concat_ws(E'\n', pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'), g.acl) as definition
from pg_proc as p
left join granted as g on g.class = 'pg_proc'::regclass and g.oid = p.oid
where p.pronamespace = 'ordinaut'::regnamespace
union all
select 'relation', c.oid::regclass::text,
  concat_ws(E'\n', c.relkind, c.relpersistence, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
    array_to_string(c.reloptions, ' '),
    (select array_to_string(t.reloptions, ' ') from pg_class as t where t.oid = c.reltoastrelid),
    case when c.relkind = 'v' then pg_get_viewdef(c.oid) end, obj_description(c.oid, 'pg_class'), g.acl)
from ours as c
left join granted as g on g.class = 'pg_class'::regclass and g.oid = c.oid
where c.relkind not in ('i', 'I')
union all
select 'column', c.oid::regclass || '.' || a.attname,
  concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
    pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage, a.attcompression,
    col_description(c.oid, a.attnum))
from ours as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relkind in ('r', 'p', 'v', 'c')
union all
select 'constraint', c.oid::regclass || '.' || k.conname, pg_get_constraintdef(k.oid)
from ours as c
join pg_constraint as k on k.conrelid = c.oid
union all
select 'index', c.oid::regclass::text,
  concat_ws(' ', pg_get_indexdef(c.oid), case when not i.indisvalid then 'INVALID' end)
from ours as c
join pg_index as i on i.indexrelid = c.oid
union all
select 'trigger', c.oid::regclass || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
from ours as c
join pg_trigger as t on t.tgrelid = c.oid and not t.tgisinternal
union all
select 'type', t.oid::regtype::text, concat_ws(' ', t.typtype, format_type(t.typbasetype, t.typtypmod))
from pg_type as t
left join pg_class as c on c.oid = t.typrelid
where t.typnamespace = 'ordinaut'::regnamespace and t.typelem = 0 and (c.oid is null or c.relkind = 'c')
union all
select 'schema', n.nspname, g.acl
from pg_namespace as n
left join granted as g on g.class = 'pg_namespace'::regclass and g.oid = n.oid
where n.nspname = 'ordinaut'
union all
select 'migration', m.version || '_' || m.name, m.sha256
from ordinaut.schema_migration as m
union all
select 'code', l.version, concat_ws(' ', l.sha256, l.api)
from ordinaut.loaded_code as l
order by 1, 2, 3
