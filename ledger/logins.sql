-- me: The login, and whether it migrates: whoever owns what is there, else whoever may make it.
select current_user as name, rolsuper or rolcreaterole as creates_roles,
       coalesce(
         (select pg_has_role(c.relowner, 'usage')
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where n.nspname = 'ledger' and c.relname = 'migrations'),
         (select bool_and(coalesce(has_schema_privilege(n.oid, 'create'),
                                   has_database_privilege(current_database(), 'create')))
            from unnest(array['ledger', 'vault']) w (name)
            left join pg_namespace n on n.nspname = w.name)) as migrates
  from pg_roles where rolname = current_user;

-- role: What is wrong with a role, in the words that mend it; whether another database uses it.
select array_remove(array[
         case when not rolcanlogin then 'login' end, case when rolsuper then 'nosuperuser' end,
         case when rolbypassrls then 'nobypassrls' end, case when rolcreaterole then 'nocreaterole' end,
         case when rolcreatedb then 'nocreatedb' end], null) as changes,
       exists (select from pg_shdepend d
                where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.dbid <> 0
                  and d.dbid <> (select oid from pg_database where datname = current_database())) as elsewhere
  from pg_roles r where rolname = $1;

-- powerful: Whether a role could change events, or see all tenants' rows, by itself or as a member of others.
select has_table_privilege($1, 'ledger.events', 'update, delete, truncate')
    or exists (select from pg_roles b
                where (b.rolsuper or b.rolbypassrls) and pg_has_role($1, b.oid, 'member'))
    or exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname in ('ledger', 'vault') and c.relkind = 'r'
                  and (pg_has_role($1, c.relowner, 'member') or pg_has_role($1, n.nspowner, 'member')));
