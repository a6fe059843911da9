-- Run after every migration: the application's role may read, append and keep
-- read models; it may never change or remove an event. `$app` is its name.
-- Row-level security is forced, so that even the owner of the tables is bound.

do $do$
declare
  t record;
  app regrole := $r$"$app"$r$;
begin
  if not has_database_privilege(app, current_database(), 'connect') then  -- else it needs no right to grant
    execute format('grant connect on database %I to %s', current_database(), app);
  end if;
  for t in
    select n.nspname as s, c.relname as r, c.relrowsecurity and c.relforcerowsecurity as bound
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('ledger', 'vault') and c.relkind = 'r'
       and (n.nspname, c.relname) not in (('ledger', 'tenants'), ('ledger', 'migrations'))
  loop
    if not t.bound then  -- only then: it locks the table against everybody
      execute format('alter table %I.%I enable row level security', t.s, t.r);
      execute format('alter table %I.%I force row level security', t.s, t.r);
    end if;
    if not exists (select from pg_policies where schemaname = t.s and tablename = t.r and policyname = 'tenant') then
      execute format(
        'create policy tenant on %I.%I using (tenant_id = current_setting(''ledger.tenant'', true))', t.s, t.r);
    end if;
  end loop;
end $do$;

revoke all on schema ledger, vault from public;
grant usage on schema ledger, vault to "$app";
grant select, insert on ledger.tenants to "$app";
grant select on ledger.migrations to "$app";
grant select, insert on ledger.events to "$app";
grant select, insert, update on ledger.heads to "$app";
grant select, insert, update, delete on
  ledger.idempotency, ledger.parked, ledger.tracking, ledger.records, ledger.links,
  ledger.outcomes, ledger.leases, ledger.rebuilds, ledger.summary to "$app";
grant select, insert, update on vault.keys to "$app";
grant execute on all functions in schema ledger to "$app";
