-- one_record: a record's present row
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.zoho_id = $3 and r.state <> 'none'
   limit 1) r
 where h.tenant_id = $1;

-- list_active_records: rows of one entity behind an id, bytewise
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.state = 'active' and r.zoho_id > $3
   order by r.zoho_id limit $4) r
 where h.tenant_id = $1
 order by r.zoho_id;

-- list_waiting_records: rows of one entity behind an id, bytewise
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.state = 'waiting' and r.zoho_id > $3
   order by r.zoho_id limit $4) r
 where h.tenant_id = $1
 order by r.zoho_id;

-- list_deleted_records: rows of one entity behind an id, bytewise
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.state = 'deleted' and r.zoho_id > $3
   order by r.zoho_id limit $4) r
 where h.tenant_id = $1
 order by r.zoho_id;

-- list_all_records: rows of one entity in any state behind an id, bytewise
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.state <> 'none' and r.zoho_id > $3
   order by r.zoho_id limit $4) r
 where h.tenant_id = $1
 order by r.zoho_id;

-- deferred: what waits, oldest first, behind (since, position, id)
select r.* from ledger.heads h cross join lateral (
  select * from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation and r.state = 'waiting'
     and (r.waiting_since, r.own_position, r.zoho_id) > ($2, $3, $4)
   order by r.waiting_since, r.own_position, r.zoho_id limit $5) r
 where h.tenant_id = $1
 order by r.waiting_since, r.own_position, r.zoho_id;

-- keys_by_id: keys of the vault that are not destroyed
select k.key_id, k.subject, k.wrapped from unnest($2::bytea[]) w (key_id) cross join lateral (
  select * from vault.keys k
   where k.tenant_id = $1 and k.key_id = w.key_id
   limit 1) k
 where k.wrapped is not null;

-- parked: positions on which a follower's handler failed
select position from ledger.parked where tenant_id = $1 and follower = $2;

-- position_at: the first position recorded at or behind an instant
select position from ledger.events
 where tenant_id = $1 and recorded_at >= $2 and recorded_at > '1970-01-01 00:00:00+00'
 order by recorded_at, position limit 1;

-- events_by_position: events with their outcomes, filters that are null do not count
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.key_id, e.problems, e.payload, o.status, o.reason, o.changes, o.errors
  from (select e.*, h.generation from ledger.heads h cross join ledger.events e
         where h.tenant_id = $1 and e.tenant_id = $1 and e.position > $2 and e.position < $3
           and ($4::text is null or e.entity = $4)
           and ($5::text is null or e.source = $5)
         order by e.position limit $6) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = e.generation and o.position = e.position and o.own
     limit 1) o on true
 order by e.position;

-- events_of_stream: the same for one record's stream
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.key_id, e.problems, e.payload, o.status, o.reason, o.changes, o.errors
  from ledger.heads h cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.stream = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
     order by e.version limit $6) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
 order by e.position;

-- events_of_delivery: the same for one delivery
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.key_id, e.problems, e.payload, o.status, o.reason, o.changes, o.errors
  from ledger.heads h cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.delivery_id = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
     order by e.position limit $6) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
 order by e.position;

-- events_by_outcome: events found by what they led to
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.key_id, e.problems, e.payload, o.status, o.reason, o.changes, o.errors
  from ledger.outcomes o
 cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.position = o.position
     limit 1) e
 where o.tenant_id = $1 and o.own
   and o.generation = (select h.generation from ledger.heads h where h.tenant_id = $1)
   and o.position > $2 and o.position < $3
   and ($4::text is null or e.entity = $4)
   and ($5::text is null or e.source = $5)
   and ($7::text is null or e.stream = $7)
   and ($8::text is null or e.delivery_id = $8)
   and ($9::text is null or o.status = $9)
   and ($10::text is null or o.reason = $10)
 order by o.position limit $6;

-- events_by_rare_status: the same for statuses that have an index
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.key_id, e.problems, e.payload, o.status, o.reason, o.changes, o.errors
  from ledger.outcomes o
 cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.position = o.position
     limit 1) e
 where o.tenant_id = $1 and o.own
   and o.generation = (select h.generation from ledger.heads h where h.tenant_id = $1)
   and o.position > $2 and o.position < $3
   and ($4::text is null or e.entity = $4)
   and ($5::text is null or e.source = $5)
   and ($7::text is null or e.stream = $7)
   and ($8::text is null or e.delivery_id = $8)
   and o.status = $9 and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED')
   and ($10::text is null or o.reason = $10)
 order by o.position limit $6;
