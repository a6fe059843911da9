-- What a process asks of all tenants at once. Each function goes from tenant to tenant and names
-- each one before it looks, with no more rights than its caller has: row-level security holds here
-- as it does everywhere, and one round trip takes the place of ten thousand transactions. At the
-- end the transaction belongs to the tenant to which it belonged before.

-- Where every tenant's history ends, and which read models are live.
create function ledger.heads_v1(
  out tenant_id text, out "position" bigint, out generation integer, out version integer
) returns setof record language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  mine text := current_setting('ledger.tenant', true);
  t text;
begin
  for t in select n.tenant_id from ledger.tenants n order by n.tenant_id loop
    perform set_config('ledger.tenant', t, true);
    select h.tenant_id, h.position, h.generation, h.version
      into tenant_id, "position", generation, version
      from ledger.heads h where h.tenant_id = t;
    if found then
      return next;
    end if;
  end loop;
  perform set_config('ledger.tenant', coalesce(mine, ''), true);
end $$;

-- The tenants in which a follower is behind the head or has parked events, and how many.
-- `p_checkpoint` is the name of its checkpoint up to the generation.
create function ledger.behind_v1(
  p_follower text, p_checkpoint text, out tenant_id text, out is_behind boolean, out parked bigint
) returns setof record language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  mine text := current_setting('ledger.tenant', true);
  t text;
begin
  for t in select n.tenant_id from ledger.tenants n order by n.tenant_id loop
    perform set_config('ledger.tenant', t, true);
    select t, h.position > coalesce(c.notification_id, 0), p.count
      into tenant_id, is_behind, parked
      from ledger.heads h
      left join lateral (
        select c.notification_id from ledger.tracking c
         where c.tenant_id = t and c.follower = p_checkpoint || h.generation
         limit 1) c on true
     cross join lateral (
        select count(*) from ledger.parked p
         where p.tenant_id = t and p.follower = p_follower) p
     where h.tenant_id = t;
    if is_behind or parked > 0 then
      return next;
    end if;
  end loop;
  perform set_config('ledger.tenant', coalesce(mine, ''), true);
end $$;

-- Active and waiting records of some tenants whose status is none of some words (lower case, without
-- blanks), and the head behind which they were read: one row without an entity for each tenant. Of a
-- tenant with more than so many events there is no row at all.
create function ledger.statuses_v1(
  p_tenants text[], p_entities text[], p_words text[], p_most bigint,
  out tenant_id text, out "position" bigint, out generation integer,
  out entity text, out zoho_id text, out status text
) returns setof record language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  mine text := current_setting('ledger.tenant', true);
  t text;
begin
  foreach t in array p_tenants loop
    perform set_config('ledger.tenant', t, true);
    select t, h.position, h.generation, null, null, null
      into tenant_id, "position", generation, entity, zoho_id, status
      from ledger.heads h where h.tenant_id = t and h.position <= p_most;
    continue when not found;
    return next;
    for entity, zoho_id, status in
      select r.entity, r.zoho_id, r.status from (
        select r.entity, r.zoho_id, convert_from(r.fields, 'UTF8')::json ->> 'status' as status
          from unnest(p_entities) w (entity) cross join lateral (
            select * from ledger.records r
             where r.tenant_id = t and r.generation = statuses_v1.generation and r.entity = w.entity
             order by r.zoho_id offset 0) r
         where r.state in ('active', 'waiting') offset 0) r
       where lower(replace(r.status, ' ', '') collate "C") <> all (p_words)
    loop
      return next;
    end loop;
  end loop;
  perform set_config('ledger.tenant', coalesce(mine, ''), true);
end $$;

-- Removes remembered answers whose time is over and destroys old keys of unreadable deliveries, in
-- some tenants behind one. Answers the last of them, null where there are none left.
create function ledger.tidy_v1(
  p_after text, p_limit integer, p_now timestamptz, p_keys_before timestamptz
) returns text language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  mine text := current_setting('ledger.tenant', true);
  t text;
begin
  for t in
    select n.tenant_id from ledger.tenants n
     where n.tenant_id > p_after order by n.tenant_id limit p_limit
  loop
    perform set_config('ledger.tenant', t, true);
    delete from ledger.idempotency i where i.tenant_id = t and i.expires_at <= p_now;
    update vault.keys k set wrapped = null
     where k.tenant_id = t and k.wrapped is not null
       -- Two ranges of the index, since most keys are those of persons. Not `like`: under row-level
       -- security only what surely leaks nothing may use an index.
       and (k.subject >= 'quarantine:' and k.subject < 'quarantine;'
            or k.subject >= 'spare:' and k.subject < 'spare;')
       and k.subject ~ '^(spare:)*quarantine:' and k.created_at < p_keys_before;
  end loop;
  perform set_config('ledger.tenant', coalesce(mine, ''), true);
  return t;
end $$;
