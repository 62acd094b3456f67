-- The roles of Ordinaut, for a DBA, where the installer may not create roles.  Run once per
-- cluster; `ordinaut install` afterwards grants them functions and views, and no table.

create role ordinaut_viewer   nologin;
create role ordinaut_producer nologin;
create role ordinaut_worker   nologin;
create role ordinaut_admin    nologin;
