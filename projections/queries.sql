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

-- parked: positions on which a follower's handler failed
select position from ledger.parked where tenant_id = $1 and follower = $2;

-- position_at: the first position recorded at or behind an instant
select position from ledger.events
 where tenant_id = $1 and recorded_at >= $2 and recorded_at > '1970-01-01 00:00:00+00'
 order by recorded_at, position limit 1;

-- events_with_outcomes: some events and what each led to; `{events}` is one of the selections below
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
  from ledger.heads h cross join lateral (
{events}) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
 order by e.position;

-- select_by_position: filters that are null do not count
    select * from ledger.events e
     where e.tenant_id = $1 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
     order by e.position limit $6;

-- select_of_stream: the events of one record
    select * from ledger.events e
     where e.tenant_id = $1 and e.stream = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
     order by e.version limit $6;

-- select_of_delivery: the events of one delivery
    select * from ledger.events e
     where e.tenant_id = $1 and e.delivery_id = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
     order by e.position limit $6;

-- select_of_rare_source: events that were not pushed by sync
    select * from ledger.events e
     where e.tenant_id = $1 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and e.source = $5 and e.source <> 'sync'
     order by e.position limit $6;

-- events_by_outcome: events found by what they led to
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
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
   and ($7::text is null or o.status = $7)
   and ($8::text is null or o.reason = $8)
 order by o.position limit $6;

-- events_by_rare_status: the same for statuses that have an index
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
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
   and o.status = $7 and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED')
   and ($8::text is null or o.reason = $8)
 order by o.position limit $6;

-- has_warnings: whether an event `e` that led to `o` has a problem that is none of its errors
e.problems is not null and e.flags & 8 = 0 and exists (
         select problem::text from json_array_elements(e.problems::json) problem
         except
         select error::text from json_array_elements(convert_from(coalesce(o.errors, '[]'), 'utf8')::json) error);

-- events_with_warnings: events that have one
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
  from ledger.events e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.position = e.position and o.own
       and o.generation = (select h.generation from ledger.heads h where h.tenant_id = $1)
     limit 1) o on true
 where e.tenant_id = $1 and e.position > $2 and e.position < $3
   and ($4::text is null or e.entity = $4)
   and ($5::text is null or e.source = $5)
   and ($7::text is null or o.status = $7)
   and ($8::text is null or o.reason = $8)
   and {has_warnings}
 order by e.position limit $6;

-- events_of_stream_by_outcome: the events of one record where what they led to, or their warnings, count
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
  from ledger.heads h cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.stream = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
       and ($10::text is null or e.delivery_id = $10)
     order by e.version offset 0) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
   and ($8::text is null or o.status = $8)
   and ($9::text is null or o.reason = $9)
   and (not $11 or {has_warnings})
 order by e.position limit $6;

-- events_of_delivery_by_outcome: the same of one delivery
select e.position, e.recorded_at, e.entity, e.zoho_id, e.stream, e.version, e.topic, e.source,
       e.delivery_id, e.flags, e.problems, e.key_id, octet_length(e.payload) as size,
       o.status, o.reason, o.changes, o.errors
  from ledger.heads h cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.delivery_id = $7 and e.position > $2 and e.position < $3
       and ($4::text is null or e.entity = $4)
       and ($5::text is null or e.source = $5)
       and ($10::text is null or e.delivery_id = $10)
     order by e.position offset 0) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
   and ($8::text is null or o.status = $8)
   and ($9::text is null or o.reason = $9)
   and (not $11 or {has_warnings})
 order by e.position limit $6;

-- payloads_at: payloads of some positions
select e.position, e.payload from unnest($2::bigint[]) w (position) cross join lateral (
  select * from ledger.events e where e.tenant_id = $1 and e.position = w.position limit 1) e
 order by e.position;

-- position_before: the newest position recorded at or before an instant
select position from ledger.events
 where tenant_id = $1 and recorded_at <= $2 and recorded_at > '1970-01-01 00:00:00+00'
 order by recorded_at desc, position desc limit 1;

-- recorded_at: when a position was recorded
select recorded_at from ledger.events where tenant_id = $1 and position = $2;

-- effects_on_record: what events of others did to a record, with those events
select e.position, e.recorded_at, e.entity, e.zoho_id, e.topic, e.source, e.delivery_id,
       o.status, o.reason
  from ledger.heads h cross join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and not o.own
       and o.entity = $2 and o.zoho_id = $3 and o.position > $4
     order by o.position limit $5) o
 cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.position = o.position
     limit 1) e
 where h.tenant_id = $1
 order by e.position;

-- events_of_streams: every event of some streams up to a position, payloads where wanted
select e.tenant_id, e.position, e.stream, e.version, e.topic, e.entity, e.zoho_id, e.source,
       e.delivery_id, e.recorded_at, e.effective_at, e.refs, e.flags, e.problems, e.key_id,
       e.content_mac, case when w.payload then e.payload else '' end as payload
  from unnest($2::text[], $3::boolean[]) w (stream, payload) cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.stream = w.stream and e.position <= $4
     order by e.version offset 0) e;

-- ids_known_at: ids of one entity behind an id, bytewise, that were accepted up to an instant
select r.zoho_id from ledger.heads h cross join lateral (
  select r.zoho_id from ledger.records r
   where r.tenant_id = h.tenant_id and r.generation = h.generation
     and r.entity = $2 and r.zoho_id > $3 and r.created_at <= $4
   order by r.zoho_id limit $5) r
 where h.tenant_id = $1
 order by r.zoho_id;

-- ids_in_first_events: the same where the ledger was young: from its events
select distinct zoho_id from (
  select e.entity, e.zoho_id from ledger.events e
   where e.tenant_id = $1 and e.position <= $4
   order by e.position offset 0) e
 where e.entity = $2 and e.zoho_id > $3
 order by zoho_id limit $5;

-- last_events_of_stream: the newest events of one stream with what they led to
select e.position, e.recorded_at, o.status, o.reason, o.errors
  from ledger.heads h cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.stream = $2
     order by e.version desc limit $3) e
  left join lateral (
    select * from ledger.outcomes o
     where o.tenant_id = $1 and o.generation = h.generation and o.position = e.position and o.own
     limit 1) o on true
 where h.tenant_id = $1
 order by e.version desc;

-- outcomes_in_order: what events behind a position led to, for projections that follow
select o.position, e.stream, e.recorded_at, o.entity, o.status
  from ledger.outcomes o cross join lateral (
    select * from ledger.events e
     where e.tenant_id = $1 and e.position = o.position
     limit 1) e
 where o.tenant_id = $1 and o.generation = $2 and o.own and o.position > $3 and o.position <= $4
 order by o.position limit $5;

-- summary_counts: hourly counts within two instants
select s.hour, s.entity, s.status, s.count from ledger.summary s
 where s.tenant_id = $1 and s.generation = $2 and s.version = $3 and s.hour >= $4 and s.hour < $5;

-- add_to_summary: more events of an hour
insert into ledger.summary as s (tenant_id, generation, version, hour, entity, status, count)
select $1, $2, $3, n.* from unnest($4::timestamptz[], $5::text[], $6::text[], $7::bigint[]) n
on conflict (tenant_id, generation, version, hour, entity, status)
   do update set count = s.count + excluded.count;

-- head: where a tenant's history ends, and which read models are live
select position, generation, version, recorded_at from ledger.heads where tenant_id = $1;

-- checkpoint: how far a follower has come
select notification_id from ledger.tracking where tenant_id = $1 and follower = $2;

-- move_checkpoint: compare and set, from one position to a later one
insert into ledger.tracking as t (tenant_id, follower, notification_id)
select $1::text, $2::text, $4::bigint
 where $3::bigint = 0 or exists (select from ledger.tracking where tenant_id = $1 and follower = $2)
on conflict (tenant_id, follower) do update set notification_id = excluded.notification_id
 where t.notification_id = $3
returning true;

-- hold_checkpoint: so that there is a row to lock
insert into ledger.tracking (tenant_id, follower, notification_id) values ($1, $2, 0) on conflict do nothing;

-- lock_checkpoint: the follower waits until the transaction ends, then finds it moved
select notification_id from ledger.tracking where tenant_id = $1 and follower = $2 for update;

-- take_lease: a lease that is free, over, or one's own, for some seconds of the database's clock
insert into ledger.leases as l (tenant_id, name, owner, until)
values ($1, $2, $3, now() + make_interval(secs => $4))
on conflict (tenant_id, name) do update set owner = excluded.owner, until = excluded.until,
   note = case when l.owner = excluded.owner then l.note end
 where l.owner = excluded.owner or l.until < now()
returning true;

-- renew_lease: a lease that is still one's own
update ledger.leases set until = now() + make_interval(secs => $4)
 where tenant_id = $1 and name = $2 and owner = $3 returning true;

-- give_lease_back: at a clean end, so that nobody waits for it to run out
delete from ledger.leases where tenant_id = $1 and name = $2 and owner = $3;

-- park: an event that a follower could not apply, or that stands behind such a one
insert into ledger.parked (tenant_id, follower, stream, position, reason, parked_at)
values ($1, $2, $3, $4, $5, $6) on conflict do nothing;

-- parked_events: what a follower has parked, in order
select position, stream, reason, parked_at from ledger.parked
 where tenant_id = $1 and follower = $2 order by position;

-- unpark: an event that is applied after all
delete from ledger.parked where tenant_id = $1 and follower = $2 and position = $3 returning true;

-- count_parked: how many events a follower has parked
select count(*) from ledger.parked where tenant_id = $1 and follower = $2;

-- forget_summary: the rows of one version and generation
delete from ledger.summary where tenant_id = $1 and generation = $2 and version = $3;

-- forget_checkpoint: a follower that starts over
delete from ledger.tracking where tenant_id = $1 and follower = $2;

-- rebuild: the one on its way
select generation, version, position from ledger.rebuilds where tenant_id = $1;

-- begin_rebuild: a new one, from nothing
insert into ledger.rebuilds (tenant_id, generation, version, position, started_at)
values ($1, $2, $3, 0, now())
on conflict (tenant_id) do update set generation = excluded.generation,
   version = excluded.version, position = 0, started_at = excluded.started_at;

-- save_rebuild: the rows are complete up to a position
update ledger.rebuilds set position = $2 where tenant_id = $1;

-- end_rebuild: it has switched, or is given up
delete from ledger.rebuilds where tenant_id = $1;

-- add_outcomes: into a generation that is being built
insert into ledger.outcomes select $1, $2, o.* from unnest($3::ledger.outcome_v1[]) o;

-- add_records: into a generation that is being built
insert into ledger.records select $1, $2, r.* from unnest($3::ledger.record_v1[]) r;

-- add_links: into a generation that is being built
insert into ledger.links select $1, $2, l.* from unnest($3::ledger.link_v1[]) l on conflict do nothing;

-- remove_records: from a generation that is being built, by name
delete from ledger.records where ctid = any (array(
  select r.row from unnest($3::text[], $4::text[]) w (entity, zoho_id) cross join lateral (
    select r.ctid as row from ledger.records r
     where r.tenant_id = $1 and r.generation = $2 and r.entity = w.entity and r.zoho_id = w.zoho_id
     limit 1) r));

-- remove_links: from a generation that is being built
delete from ledger.links where ctid = any (array(
  select l.row from unnest($3::ledger.link_v1[]) w cross join lateral (
    select l.ctid as row from ledger.links l
     where l.tenant_id = $1 and l.generation = $2
       and l.needs_entity = w.needs_entity and l.needs_id = w.needs_id
       and l.entity = w.entity and l.zoho_id = w.zoho_id
     limit 1) l));

-- outcomes_behind: what a killed rebuild wrote behind its last complete position
delete from ledger.outcomes where tenant_id = $1 and generation = $2 and position > $3;

-- own_changes: what the outcomes of a generation tell of some events' own records
select o.position, o.changes from unnest($3::bigint[]) w (position) cross join lateral (
  select * from ledger.outcomes o
   where o.tenant_id = $1 and o.generation = $2 and o.position = w.position and o.own
   limit 1) o;

-- records_named: rows of a generation by name
select r.* from unnest($3::text[], $4::text[]) w (entity, zoho_id) cross join lateral (
  select * from ledger.records r
   where r.tenant_id = $1 and r.generation = $2 and r.entity = w.entity and r.zoho_id = w.zoho_id
   limit 1) r;

-- records_of: every row of a generation behind a name, in order
select * from ledger.records
 where tenant_id = $1 and generation = $2 and (entity, zoho_id) > ($3, $4)
 order by entity, zoho_id limit $5;

-- links_of: every link of a generation behind one, in order
select needs_entity, needs_id, entity, zoho_id from ledger.links
 where tenant_id = $1 and generation = $2
   and (needs_entity, needs_id, entity, zoho_id) > ($3, $4, $5, $6)
 order by needs_entity, needs_id, entity, zoho_id limit $7;

-- outcomes_between: every outcome of a generation within two positions, both inclusive
select position, entity, zoho_id, own, status, reason, changes, errors from ledger.outcomes
 where tenant_id = $1 and generation = $2 and position >= $3 and position <= $4
 order by position, entity, zoho_id;

-- lock_head: nobody appends until the transaction ends
select position, generation, version from ledger.heads where tenant_id = $1 for update;

-- switch_generation: other read models are live from here on
update ledger.heads set generation = $2, version = $3 where tenant_id = $1;

-- unpark_all: before what is parked now is written
delete from ledger.parked where tenant_id = $1 and follower = $2;

-- failed_positions: what a generation could not apply
select o.position, e.stream from ledger.outcomes o cross join lateral (
    select * from ledger.events e where e.tenant_id = $1 and e.position = o.position limit 1) e
 where o.tenant_id = $1 and o.generation = $2 and o.own
   and o.status = 'ERROR' and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED');

-- unpark_others: a follower keeps some positions parked and no other ones
delete from ledger.parked where tenant_id = $1 and follower = $2 and position <> all ($3::bigint[]);

-- outcomes_outside: outcomes of a generation at positions that no event has
select position, entity, zoho_id, own, status, reason, changes, errors from ledger.outcomes
 where tenant_id = $1 and generation = $2 and (position < 1 or position > $3);

-- summary_rows: every count of one version and generation
select hour, entity, status, count from ledger.summary
 where tenant_id = $1 and generation = $2 and version = $3;

-- events_behind: events by position
select tenant_id, position, stream, version, topic, entity, zoho_id, source, delivery_id,
       recorded_at, effective_at, refs, flags, problems, key_id, content_mac, payload, chain
  from ledger.events where tenant_id = $1 and position > $2 order by position limit $3;

-- tenants: every one of the installation
select tenant_id, created_at from ledger.tenants order by tenant_id;

-- places: where the history of each tenant ends, and which read models are live
select tenant_id, position, generation, version from ledger.heads_v1();

-- behind: the tenants in which a follower has work left, or parked events
select tenant_id, is_behind, parked from ledger.behind_v1($1, $2);

-- statuses_of: of some tenants with few events, the head (a row without an entity) and the records whose
-- status is none of some words
select tenant_id, position, generation, entity, zoho_id, status from ledger.statuses_v1($1, $2, $3, $4);

-- chain_head: where a tenant's chain ends
select position, recorded_at, chain from ledger.heads where tenant_id = $1;

-- parked_by_follower: how many events each follower has parked
select follower, count(*) as count from ledger.parked where tenant_id = $1 group by follower order by follower;

-- ids_once_deleted: ids of one entity behind an id, bytewise, that had been deleted up to a position
select distinct o.zoho_id from ledger.heads h cross join lateral (
  select o.entity, o.zoho_id from ledger.outcomes o
   where o.tenant_id = $1 and o.generation = h.generation and o.position <= $4
     and o.status = 'DELETED' and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED')
   offset 0) o
 where h.tenant_id = $1 and o.entity = $2 and o.zoho_id > $3
 order by o.zoho_id limit $5;

-- ids_once_waiting: the same for those that had waited
select distinct o.zoho_id from ledger.heads h cross join lateral (
  select o.entity, o.zoho_id from ledger.outcomes o
   where o.tenant_id = $1 and o.generation = h.generation and o.position <= $4
     and o.status = 'SKIPPED' and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED')
     and o.reason like '%_not_synced_yet'
   offset 0) o
 where h.tenant_id = $1 and o.entity = $2 and o.zoho_id > $3
 order by o.zoho_id limit $5;

-- changed_between: records whose state events behind a position may have changed, and how often
-- Moodle reported on each
select entity, zoho_id, count(*) filter (where status in ('SYNCED', 'FAILED')) as reports,
       bool_or(status not in ('INVALID', 'ERROR', 'SYNCED', 'FAILED')) as is_changed
  from ledger.outcomes
 where tenant_id = $1 and generation = $2 and position > $3 and position <= $4
 group by entity, zoho_id;

-- note_lease: what a lease's owner says to others
update ledger.leases set note = $4 where tenant_id = $1 and name = $2 and owner = $3;

-- held_leases: those of some names that somebody has, and what the owners say
select name, note from ledger.leases
 where tenant_id = $1 and name = any ($2::text[]) and until > clock_timestamp();

-- failed_records: records of which Moodle's reports have said that something was not done
select distinct o.entity, o.zoho_id
  from ledger.heads h cross join lateral (
    select o.entity, o.zoho_id from ledger.outcomes o
     where o.tenant_id = h.tenant_id and o.generation = h.generation
       and o.status in ('INVALID', 'SKIPPED', 'ERROR', 'DELETED', 'FAILED') and o.status = 'FAILED'
     offset 0) o
 where h.tenant_id = $1
 order by o.entity, o.zoho_id;

-- begin_moodle_rebuild: from where on Moodle's reports count, kept until it has ended
insert into ledger.tracking (tenant_id, follower, notification_id) values ($1, $2, $3)
on conflict do nothing;

-- statuses_besides: active and waiting records of one entity after an id, bytewise, whose status is
-- none of some words (lower case, without blanks); the last row has the id to go on behind, null where
-- nothing comes after it
with page as materialized (
  select r.zoho_id, r.state, r.fields from ledger.records r
   where r.tenant_id = $1 and r.generation = $2 and r.entity = $3 and r.zoho_id > $4
   order by r.zoho_id limit $5),
found as (
  select p.zoho_id, convert_from(p.fields, 'UTF8')::json ->> 'status' as status from page p
   where p.state in ('active', 'waiting'))
select zoho_id, status from (
  select 0 as part, f.zoho_id, f.status from found f
   where lower(replace(f.status, ' ', '') collate "C") <> all ($6::text[])
  union all select 1, case when count(*) = $5 then max(p.zoho_id) end, null from page p) rows
 order by part, zoho_id;
