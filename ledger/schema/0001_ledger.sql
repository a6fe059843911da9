-- The ledger: who exists, where each tenant's head stands, what happened.
-- Every table names the tenant first in every key, so that rows of one college
-- live together, are isolated by row-level security and can be distributed.

create schema if not exists ledger;
create schema if not exists vault;

-- One row a college. `key_check` is a constant sealed under the master key:
-- a server with another master key finds out before it writes anything.
create table ledger.tenants (
  tenant_id  text collate "C" primary key,
  created_at timestamptz not null default now(),
  key_check  bytea not null
);

-- Where a tenant's history ends. The row lock orders all appends of the tenant,
-- so positions are contiguous. `chain` is the digest chain's last value,
-- `generation` the read-model generation that is live, `version` that of the inline
-- projection whose handler filled it: a process with another version does not write.
create table ledger.heads (
  tenant_id   text collate "C" primary key,
  position    bigint not null,
  recorded_at timestamptz not null,
  chain       bytea not null,
  generation  integer not null,
  version     integer not null default 1
) with (fillfactor = 20);

-- What happened, for ever. The envelope is in clear; `payload` is sealed where
-- `key_id` names a key of the vault. `chain` = sha256(previous chain || digest),
-- the digest covers every other column (see ledger/chain.py).
create table ledger.events (
  tenant_id    text collate "C" not null,
  position     bigint not null check (position > 0),
  stream       text collate "C" not null,
  version      bigint not null,
  topic        text collate "C" not null,
  entity       text collate "C",
  zoho_id      text collate "C",
  source       text collate "C" not null,
  delivery_id  text collate "C",
  recorded_at  timestamptz not null,
  effective_at timestamptz,
  refs         text,
  flags        smallint not null,
  problems     text,
  key_id       bytea,
  content_mac  bytea,
  payload      bytea not null,
  chain        bytea not null,
  primary key (tenant_id, position)
);
create unique index events_by_stream on ledger.events (tenant_id, stream, version);
-- Without statistics a planner takes any index whose first columns match, so every
-- secondary index is partial: only a query that names its predicate can use it.
create index events_by_time on ledger.events (tenant_id, recorded_at, position)
  where recorded_at > '1970-01-01 00:00:00+00';
create index events_by_delivery on ledger.events (tenant_id, delivery_id, position)
  where delivery_id is not null;

-- The answer to each remembered delivery, written with the events it speaks of.
-- `records` lists the records as that delivery left them ([entity, id, state_version]).
create table ledger.idempotency (
  tenant_id   text collate "C" not null,
  endpoint    text collate "C" not null,
  key         text collate "C" not null,
  derived     boolean not null,
  body_hash   bytea not null,
  delivery_id text collate "C" not null,
  answer      bytea not null,
  records     bytea not null,
  expires_at  timestamptz not null,
  primary key (tenant_id, endpoint, key)
) with (fillfactor = 80);

-- Events whose handler failed, kept with the reason until they are applied again.
create table ledger.parked (
  tenant_id text collate "C" not null,
  follower  text collate "C" not null,
  stream    text collate "C" not null,
  position  bigint not null,
  reason    text not null,
  parked_at timestamptz not null,
  primary key (tenant_id, follower, position)
);

-- How far each follower has come (compare-and-set: a position only ever grows).
create table ledger.tracking (
  tenant_id       text collate "C" not null,
  follower        text collate "C" not null,
  notification_id bigint not null,
  primary key (tenant_id, follower)
);

-- Keys that seal what is known of a person (subject `person:<id>`) or of
-- deliveries that could not be read (subject `quarantine:<day>`), each wrapped
-- by the master key. Destroying a key empties `wrapped`.
create table vault.keys (
  tenant_id  text collate "C" not null,
  key_id     bytea not null,
  subject    text collate "C" not null,
  wrapped    bytea,
  created_at timestamptz not null default now(),
  primary key (tenant_id, key_id)
);
create unique index keys_by_subject on vault.keys (tenant_id, subject) where wrapped is not null;
