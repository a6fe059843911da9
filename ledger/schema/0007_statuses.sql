-- Which default list of statuses that take no seat a tenant was founded with: 1 the list of the
-- first releases, 2 the wider one (ledger/statuses.py). A tenant keeps its list, so that no seat is
-- taken away by an upgrade; a list that is set comes first.

alter table ledger.tenants add column statuses smallint not null default 1;
alter table ledger.tenants alter column statuses set default 2;
