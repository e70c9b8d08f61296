-- Histories of the log: each new slot begins one.
--
-- LSNs start lower again after a restore, an upgrade by dump, or a failover that lost a tail. An
-- epoch before them, grown by every new slot, keeps later events later, and ids of one history apart
-- from those of another.
create table relay.history (
  slot name primary key,
  epoch bigint not null,
  system_id text not null,
  database name not null,
  begun_at timestamptz not null default now()
);

comment on table relay.history is 'The epoch that each slot began: the first part of the position of its events.';
comment on column relay.history.slot is 'The replication slot.';
comment on column relay.history.epoch is 'Higher than all before; Unix seconds where they are higher still.';
comment on column relay.history.system_id is 'The server that the slot was made on: its system identifier.';
comment on column relay.history.database is 'The database that the slot was made in.';
comment on column relay.history.begun_at is 'When the epoch began.';

-- The epoch of a slot: that which it has, or a new one where it has none, where the server is
-- another, or where the caller has just made the slot anew.
create function relay.slot_epoch(slot name, made_anew boolean default false) returns bigint
language plpgsql
volatile
strict
set search_path = pg_catalog, pg_temp
as $$
declare
  here text := (select s.system_identifier::text from pg_control_system() as s);
  known relay.history;
  found_epoch bigint;
begin
  -- Two relays that find the slot without an epoch agree on one.
  perform pg_advisory_xact_lock(hashtextextended('relay.history', 0));
  select h.* into known from relay.history as h where h.slot = slot_epoch.slot;
  if known.epoch is not null and not made_anew
    and known.system_id = here and known.database = current_database()
  then
    return known.epoch;
  end if;
  insert into relay.history as h (slot, epoch, system_id, database)
  select slot_epoch.slot,
    greatest(coalesce(max(all_of.epoch), 0) + 1, floor(extract(epoch from clock_timestamp()))::bigint),
    here, current_database()
  from relay.history as all_of
  on conflict on constraint history_pkey do update
    set epoch = excluded.epoch, system_id = excluded.system_id,
      database = excluded.database, begun_at = now()
  returning h.epoch into found_epoch;
  return found_epoch;
end
$$;

comment on function relay.slot_epoch(name, boolean) is
  'The epoch of a slot; a new one where it has none, where the server is another, or where the slot was made anew.';

-- Dead letters kept before keys had three parts: redriven, they go in the order of their aggregate.
update relay.dead_letter as d
set key = replace(replace(coalesce(d.attributes ->> 'tenant_id', ''), '%', '%25'), '/', '%2F')
  || '/' || replace(replace(d.attributes ->> 'aggregate_type', '%', '%25'), '/', '%2F')
  || '/' || replace(replace(
    -- A change of a table had its type before its key already.
    case when starts_with(d.key, (d.attributes ->> 'aggregate_type') || '/')
      then substr(d.key, length(d.attributes ->> 'aggregate_type') + 2) else d.key end,
    '%', '%25'), '/', '%2F')
where d.attributes ? 'aggregate_type';
