-- The append and the read before it, each one round trip.
-- Types and functions carry a version in their names: a new version is added
-- beside the old one, so that processes of two releases can run together.

create type ledger.event_v1 as (
  position bigint, stream text, version bigint, topic text, entity text, zoho_id text,
  source text, delivery_id text, recorded_at timestamptz, effective_at timestamptz,
  refs text, flags smallint, problems text, key_id bytea, content_mac bytea,
  payload bytea, chain bytea
);
create type ledger.record_v1 as (
  entity text, zoho_id text, state text, version bigint, state_version bigint,
  position bigint, own_position bigint, effective_at timestamptz, created_at timestamptz,
  updated_at timestamptz, deleted_at timestamptz, waiting_since timestamptz,
  waiting_for text, key_id bytea, macs bytea, active_fingerprint bytea, fields bytea
);
create type ledger.link_v1 as (needs_entity text, needs_id text, entity text, zoho_id text);
create type ledger.outcome_v1 as (
  position bigint, entity text, zoho_id text, own boolean, status text, reason text,
  changes bytea, errors bytea
);
create type ledger.key_v1 as (key_id bytea, subject text, wrapped bytea);
create type ledger.answer_v1 as (
  endpoint text, key text, derived boolean, body_hash bytea, delivery_id text,
  answer bytea, records bytea, expires_at timestamptz, replaces boolean
);
create type ledger.parked_v1 as (follower text, stream text, position bigint, reason text);

-- Appends one flush: all of it or nothing.
-- Answers 'ok', 'moved' (the head is not where the caller left it, or it is of
-- another generation) or 'known' (an answer is remembered under one of the keys).
create function ledger.append_v1(
  p_tenant text, p_position bigint, p_generation integer,
  p_new_position bigint, p_recorded_at timestamptz, p_chain bytea, p_now timestamptz,
  p_events ledger.event_v1[], p_outcomes ledger.outcome_v1[], p_records ledger.record_v1[],
  p_links ledger.link_v1[], p_unlinks ledger.link_v1[],
  p_keys ledger.key_v1[], p_answers ledger.answer_v1[], p_parked ledger.parked_v1[]
) returns text language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  head record;
begin
  perform set_config('ledger.tenant', p_tenant, true);
  select h.position, h.generation into head
    from ledger.heads h where h.tenant_id = p_tenant for update;
  if head.position is distinct from p_position or head.generation is distinct from p_generation then
    return 'moved';
  end if;
  if exists (
    select from unnest(p_answers) a cross join lateral (
      -- by key alone: a planner without statistics would take the index by expiry
      select i.expires_at from ledger.idempotency i
       where i.tenant_id = p_tenant and i.endpoint = a.endpoint and i.key = a.key
       limit 1) i
     where i.expires_at > p_now and not a.replaces
  ) then
    return 'known';
  end if;

  insert into ledger.events
    select p_tenant, e.* from unnest(p_events) e;
  insert into ledger.outcomes
    select p_tenant, p_generation, o.* from unnest(p_outcomes) o;
  if cardinality(p_records) > 0 then
    insert into ledger.records as r
      select p_tenant, p_generation, n.* from unnest(p_records) n
      on conflict (tenant_id, generation, entity, zoho_id) do update set
        state = excluded.state, version = excluded.version,
        state_version = excluded.state_version, position = excluded.position,
        own_position = excluded.own_position, effective_at = excluded.effective_at,
        created_at = excluded.created_at, updated_at = excluded.updated_at,
        deleted_at = excluded.deleted_at, waiting_since = excluded.waiting_since,
        waiting_for = excluded.waiting_for, key_id = excluded.key_id, macs = excluded.macs,
        active_fingerprint = excluded.active_fingerprint, fields = excluded.fields;
  end if;
  if cardinality(p_unlinks) > 0 then
    delete from ledger.links where ctid = any (array(
      select l.row from unnest(p_unlinks) u cross join lateral (
        select l.ctid as row from ledger.links l
         where l.tenant_id = p_tenant and l.generation = p_generation
           and l.needs_entity = u.needs_entity and l.needs_id = u.needs_id
           and l.entity = u.entity and l.zoho_id = u.zoho_id
         limit 1) l));
  end if;
  if cardinality(p_links) > 0 then
    insert into ledger.links
      select p_tenant, p_generation, l.* from unnest(p_links) l
      on conflict do nothing;
  end if;
  if cardinality(p_keys) > 0 then
    insert into vault.keys (tenant_id, key_id, subject, wrapped)
      select p_tenant, k.* from unnest(p_keys) k;
  end if;
  if cardinality(p_parked) > 0 then
    insert into ledger.parked (tenant_id, follower, stream, position, reason, parked_at)
      select p_tenant, k.follower, k.stream, k.position, k.reason, p_recorded_at
        from unnest(p_parked) k;
  end if;
  if cardinality(p_answers) > 0 then
    insert into ledger.idempotency as i
      select p_tenant, a.endpoint, a.key, a.derived, a.body_hash, a.delivery_id,
             a.answer, a.records, a.expires_at
        from unnest(p_answers) a
      on conflict (tenant_id, endpoint, key) do update set
        derived = excluded.derived, body_hash = excluded.body_hash,
        delivery_id = excluded.delivery_id, answer = excluded.answer,
        records = excluded.records, expires_at = excluded.expires_at;
  end if;
  update ledger.heads
     set position = p_new_position, recorded_at = p_recorded_at, chain = p_chain
   where tenant_id = p_tenant;
  return 'ok';
end $$;

-- Reads the head first, then what a fold needs: records and keys by name, the
-- dependents of records (with their own rows), remembered answers. What is read
-- holds if the head is still there when the append locks it.
-- `p_lock` keeps the head locked until the caller's transaction ends.
create function ledger.load_v1(
  p_tenant text, p_lock boolean,
  p_entities text[], p_ids text[],
  p_needs_entities text[], p_needs_ids text[],
  p_subjects text[], p_endpoints text[], p_keys text[],
  out head ledger.heads, out records ledger.record_v1[],
  out dependents ledger.link_v1[], out dependent_records ledger.record_v1[],
  out keys ledger.key_v1[], out answers ledger.answer_v1[]
) language plpgsql set plan_cache_mode = force_generic_plan as $$
begin
  perform set_config('ledger.tenant', p_tenant, true);
  if p_lock then
    select h.* into head from ledger.heads h where h.tenant_id = p_tenant for update;
  else
    select h.* into head from ledger.heads h where h.tenant_id = p_tenant;
  end if;
  if head.tenant_id is null then
    return;
  end if;
  if cardinality(p_ids) > 0 then
    records := array(
      select row(r.entity, r.zoho_id, r.state, r.version, r.state_version, r.position,
                 r.own_position, r.effective_at, r.created_at, r.updated_at, r.deleted_at,
                 r.waiting_since, r.waiting_for, r.key_id, r.macs, r.active_fingerprint,
                 r.fields)::ledger.record_v1
        from unnest(p_entities, p_ids) w (entity, zoho_id) cross join lateral (
          select * from ledger.records r
           where r.tenant_id = p_tenant and r.generation = head.generation
             and r.entity = w.entity and r.zoho_id = w.zoho_id
           limit 1) r);
  end if;
  if cardinality(p_needs_ids) > 0 then
    dependents := array(
      select row(l.needs_entity, l.needs_id, l.entity, l.zoho_id)::ledger.link_v1
        from unnest(p_needs_entities, p_needs_ids) w (entity, zoho_id) cross join lateral (
          select * from ledger.links l
           where l.tenant_id = p_tenant and l.generation = head.generation
             and l.needs_entity = w.entity and l.needs_id = w.zoho_id
           offset 0) l);
    dependent_records := array(
      select row(r.entity, r.zoho_id, r.state, r.version, r.state_version, r.position,
                 r.own_position, r.effective_at, r.created_at, r.updated_at, r.deleted_at,
                 r.waiting_since, r.waiting_for, r.key_id, r.macs, r.active_fingerprint,
                 r.fields)::ledger.record_v1
        from (select distinct d.entity, d.zoho_id from unnest(dependents) d) w
       cross join lateral (
          select * from ledger.records r
           where r.tenant_id = p_tenant and r.generation = head.generation
             and r.entity = w.entity and r.zoho_id = w.zoho_id
           limit 1) r);
  end if;
  if cardinality(p_subjects) > 0 then
    keys := array(
      select row(k.key_id, k.subject, k.wrapped)::ledger.key_v1
        from unnest(p_subjects) w (subject) cross join lateral (
          select * from vault.keys k
           where k.tenant_id = p_tenant and k.subject = w.subject and k.wrapped is not null
           limit 1) k);
  end if;
  if cardinality(p_keys) > 0 then
    answers := array(
      select row(i.endpoint, i.key, i.derived, i.body_hash, i.delivery_id, i.answer,
                 i.records, i.expires_at, false)::ledger.answer_v1
        from unnest(p_endpoints, p_keys) w (endpoint, key) cross join lateral (
          select * from ledger.idempotency i
           where i.tenant_id = p_tenant and i.endpoint = w.endpoint and i.key = w.key
           limit 1) i);
  end if;
end $$;
