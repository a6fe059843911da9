-- What it takes to list warnings: values that came and could not be read.

-- `problems` of an event are its errors and its warnings; of a report of Moodle (flag 8)
-- they say why it was not done, which is neither.
create index events_with_problems on ledger.events (tenant_id, position)
  where problems is not null and flags & 8 = 0;
