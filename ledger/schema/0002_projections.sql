-- The derived present. Every row can be dropped and replayed from ledger.events.
-- `generation` lets a rebuild grow beside the live rows.

-- What the ledger knows of one record. `version` counts its events,
-- `state_version` the changes of its state; `position` is the event that made the
-- state so, `own_position` the record's own newest accepted event. `macs` are the
-- keyed digests of its canonical fields, `active_fingerprint` the fingerprint with
-- which it was last active (null: never since its last deletion).
create table ledger.records (
  tenant_id          text collate "C" not null,
  generation         integer not null,
  entity             text collate "C" not null,
  zoho_id            text collate "C" not null,
  state              text collate "C" not null
                     check (state in ('none', 'active', 'waiting', 'deleted')),
  version            bigint not null,
  state_version      bigint not null,
  position           bigint,
  own_position       bigint,
  effective_at       timestamptz,
  created_at         timestamptz,
  updated_at         timestamptz,
  deleted_at         timestamptz,
  waiting_since      timestamptz,
  waiting_for        text,
  key_id             bytea,
  macs               bytea,
  active_fingerprint bytea,
  fields             bytea,
  primary key (tenant_id, generation, entity, zoho_id)
) with (fillfactor = 80);
-- Partial, so that no planner without statistics takes them for a look-up by key.
create index records_deleted on ledger.records
  (tenant_id, generation, entity, zoho_id) where state = 'deleted';
create index records_waiting_by_id on ledger.records
  (tenant_id, generation, entity, zoho_id) where state = 'waiting';
create index records_waiting on ledger.records
  (tenant_id, generation, waiting_since, own_position, zoho_id) where state = 'waiting';

-- Which active or waiting record needs which other one: read when the needed
-- record comes (release) or goes (wait again).
create table ledger.links (
  tenant_id    text collate "C" not null,
  generation   integer not null,
  needs_entity text collate "C" not null,
  needs_id     text collate "C" not null,
  entity       text collate "C" not null,
  zoho_id      text collate "C" not null,
  primary key (tenant_id, generation, needs_entity, needs_id, entity, zoho_id)
);

-- What each event led to: one row for its own record (`own`), and one for every
-- other record that it released or made wait.
create table ledger.outcomes (
  tenant_id  text collate "C" not null,
  generation integer not null,
  position   bigint not null,
  entity     text collate "C" not null,
  zoho_id    text collate "C" not null,
  own        boolean not null,
  status     text collate "C" not null,
  reason     text collate "C",
  changes    bytea,
  errors     bytea,
  primary key (tenant_id, generation, position, entity, zoho_id)
);
create index outcomes_by_status on ledger.outcomes
  (tenant_id, generation, status, position)
  where status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED');
