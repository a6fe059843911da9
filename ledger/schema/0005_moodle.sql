-- What it takes to follow Moodle.

-- Moodle's refusals are found like other rare outcomes.

drop index ledger.outcomes_by_status;
create index outcomes_by_status on ledger.outcomes
  (tenant_id, generation, status, position)
  where status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED');

-- What the owner of a lease says to the processes that wait for it, such as why work stands still.
alter table ledger.leases add column note text;
