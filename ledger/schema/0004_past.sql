-- What it takes to ask the past and to rebuild the present.

-- What happened to a record through others: released, made to wait.
create index outcomes_of_others on ledger.outcomes
  (tenant_id, generation, entity, zoho_id, position) where not own;

-- What was not pushed by sync: pulls, reconciliations, Moodle's answers.
create index events_by_source on ledger.events (tenant_id, source, position) where source <> 'sync';

-- Who does a tenant's work of one kind (a follower, a rebuild) until when. Rows, not
-- advisory locks, so that poolers may stand between; the owner renews in the
-- transactions that do the work, and whoever finds a lease expired takes it.
create table ledger.leases (
  tenant_id text collate "C" not null,
  name      text collate "C" not null,
  owner     text collate "C" not null,
  until     timestamptz not null,
  primary key (tenant_id, name)
);

-- A rebuild on its way: the generation that it fills, and how far its rows are
-- complete (the events behind `position` are folded again after a crash).
create table ledger.rebuilds (
  tenant_id  text collate "C" primary key,
  generation integer not null,
  version    integer not null,
  position   bigint not null,
  started_at timestamptz not null
);

-- How many events led to what, by hour; `version` is that of the projection. Filled by
-- a follower, so a reader adds what lies behind its checkpoint.
create table ledger.summary (
  tenant_id  text collate "C" not null,
  generation integer not null,
  version    integer not null,
  hour       timestamptz not null,
  entity     text collate "C" not null,
  status     text collate "C" not null,
  count      bigint not null,
  primary key (tenant_id, generation, version, hour, entity, status)
);
