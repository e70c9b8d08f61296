-- What an event may hold: one bound in bytes for each column that is an index key or an attribute
-- somewhere on its way, one range of time; judged the same in every locale and encoding.
--
-- V1 says that `relay recover` reads relay.outbox. There is no such command: the rows are kept for
-- an operator, who can write them again after a slot was lost.
--
-- Names here and in what is made here are looked up among Postgres's own alone, whatever schemas
-- the role of this session, or of a later one, has before them.
set local search_path = pg_catalog, pg_temp;

create or replace function relay.uuid_v7() returns uuid
language sql
volatile
parallel safe
begin atomic
  select encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6
        ),
        52, 1
      ),
      53, 1
    ),
    'hex'
  )::uuid;
end;

alter function relay.refuse(text, text, text) set search_path = pg_catalog, pg_temp;

-- Whether the text has at most so many bytes as it is published: in UTF-8.
--
-- In PL/pgSQL, as relay.is_name: a check constraint is planned anew by each statement, and to put
-- the body of an SQL function in its place takes longer than to call this (an insert of one row took
-- 220 us and takes 110).
create function relay.fits(given text, bytes integer) returns boolean
language plpgsql
stable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  -- In no encoding of a server does a byte become more than three: a short text is not converted.
  return octet_length(given) * 3 <= bytes or octet_length(convert_to(given, 'UTF8')) <= bytes;
end
$$;

comment on function relay.fits(text, integer) is 'Whether the text has at most so many bytes in UTF-8.';

-- Whether the text can name a kind of thing or of event: 1 to 255 bytes of UTF-8 without a space
-- or a control character of ASCII. Not [[:graph:]]: in the locale C that refuses every é.
create function relay.is_name(given text) returns boolean
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    given <> '' and relay.fits(given, 255) and given collate "C" !~ '[\x01-\x20\x7f]',
    false
  );
end
$$;

comment on function relay.is_name(text) is 'Whether the text is a name of 1 to 255 bytes without spaces and control characters.';

-- Not valid: rows of before are published or dead letters by now, and go with their partitions.
alter table relay.outbox
  drop constraint aggregate_type_is_a_name,
  drop constraint aggregate_id_is_a_key,
  drop constraint event_type_is_a_name,
  add constraint aggregate_type_is_a_name check (
    relay.is_name(aggregate_type)
    or relay.refuse('aggregate_type', 'a name of 1 to 255 bytes without spaces', aggregate_type)
  ) not valid,
  add constraint aggregate_id_is_a_key check (
    coalesce(aggregate_id <> '' and relay.fits(aggregate_id, 1024), false)
    or relay.refuse('aggregate_id', 'a key of 1 to 1024 bytes', aggregate_id)
  ) not valid,
  add constraint event_type_is_a_name check (
    relay.is_name(event_type)
    or relay.refuse('event_type', 'a name of 1 to 255 bytes without spaces, such as order.created', event_type)
  ) not valid,
  add constraint tenant_id_is_short check (
    coalesce(relay.fits(tenant_id, 128), true)
    or relay.refuse('tenant_id', 'at most 128 bytes, or null', tenant_id)
  ) not valid,
  add constraint event_version_is_short check (
    event_version <> '' and relay.fits(event_version, 255)
    or relay.refuse('event_version', 'a version of 1 to 255 bytes, such as 1.0', event_version)
  ) not valid,
  add constraint correlation_id_is_short check (
    coalesce(relay.fits(correlation_id, 1024), true)
    or relay.refuse('correlation_id', 'at most 1024 bytes, or null', correlation_id)
  ) not valid,
  add constraint causation_id_is_short check (
    coalesce(relay.fits(causation_id, 1024), true)
    or relay.refuse('causation_id', 'at most 1024 bytes, or null', causation_id)
  ) not valid,
  add constraint metadata_is_short check (
    relay.fits(metadata::text, 65536)
    or relay.refuse('metadata', 'a JSON object of at most 65536 bytes', left(metadata::text, 100))
  ) not valid,
  -- RFC 3339 has years of four digits and no infinity; a day is left for the offset of a reader.
  add constraint recorded_at_is_a_time check (
    recorded_at between '0001-01-02 00:00:00+00' and '9999-12-30 23:59:59.999999+00'
    or relay.refuse('recorded_at', 'a time from 0001-01-02 to 9999-12-30 in UTC', recorded_at::text)
  ) not valid;
