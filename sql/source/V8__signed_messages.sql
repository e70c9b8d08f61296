-- Messages of the relay's own, signed; and dead letters that keep every byte.
--
-- Every role may execute pg_logical_emit_message, so a prefix proves nothing. relay.emit and
-- relay.redrive sign what they write with a key that only they can read: an HMAC-SHA256 over the
-- transaction, the prefix and the content. The relay compares it with the transaction that the
-- message arrives in, so that a copied message proves nothing either.


-- Names here are looked up among Postgres's own alone.
set local search_path = pg_catalog, pg_temp;

create table relay.secret (
  id integer generated always as identity primary key,
  inner_key bytea not null check (length(inner_key) = 64),
  outer_key bytea not null check (length(outer_key) = 64),
  unsigned_until pg_lsn,
  made_at timestamptz not null default clock_timestamp()
);

revoke all on relay.secret from public;

comment on table relay.secret is 'The keys that sign messages of relay.emit and relay.redrive. No publication may cover it.';
comment on column relay.secret.id is 'Stands in each message; the greatest signs.';
comment on column relay.secret.inner_key is 'The key, padded to 64 bytes, each exclusive-or 0x36 (RFC 2104).';
comment on column relay.secret.outer_key is 'The key, padded to 64 bytes, each exclusive-or 0x5c.';
comment on column relay.secret.unsigned_until is 'Messages without a signature are taken that were written before this position of the log, by a relay.emit that did not sign yet; null: none is.';
comment on column relay.secret.made_at is 'When the key was made.';

-- Makes a key of 366 random bits of the server's own source (a UUID has 122).
create function relay.make_secret(unsigned_until pg_lsn default null) returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  key bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    || uuid_send(gen_random_uuid()));
  inner_key bytea := decode(repeat('36', 64), 'hex');
  outer_key bytea := decode(repeat('5c', 64), 'hex');
  made integer;
begin
  for at in 0 .. length(key) - 1 loop
    inner_key := set_byte(inner_key, at, get_byte(inner_key, at) # get_byte(key, at));
    outer_key := set_byte(outer_key, at, get_byte(outer_key, at) # get_byte(key, at));
  end loop;
  insert into relay.secret (inner_key, outer_key, unsigned_until)
  values (inner_key, outer_key, make_secret.unsigned_until)
  returning id into made;
  return made;
end
$$;

comment on function relay.make_secret(pg_lsn) is 'Makes a key in relay.secret; called by relay.rotate_secret.';

-- The bytes of a text as the relay reads them, whatever the encoding of the database. SQL_ASCII
-- knows no encoding: its bytes are what they are.
create function relay.bytes_of(given text) returns bytea
language sql
stable
parallel safe
begin atomic
  select convert_to(given, case when getdatabaseencoding() = 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end);
end;

comment on function relay.bytes_of(text) is 'The bytes of a text in UTF-8; in a SQL_ASCII database as they are.';

-- Writes a message that the relay takes for its own, into the log and with the caller's transaction.
-- Not for applications: who may execute this may say anything to the relay.
create function relay.write_message(prefix text, content bytea, signed_by integer default null) returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  secret relay.secret;
begin
  if signed_by is null then
    select * into secret from relay.secret order by id desc limit 1;
  else
    select * into secret from relay.secret s where s.id = signed_by;
  end if;
  if secret.id is null then
    raise exception 'relay: expected a key in relay.secret, found none'
      using hint = 'Run select relay.rotate_secret() as the owner of the schema relay.';
  end if;
  -- A version, the key's id, the digest, the content. The lengths are fixed and a prefix has no
  -- zero byte, so no two messages have the same signed bytes.
  perform pg_logical_emit_message(
    true,
    prefix,
    decode('01', 'hex') || int4send(secret.id)
      || sha256(secret.outer_key || sha256(
        secret.inner_key || xidsend(pg_current_xact_id()::xid) || convert_to(prefix, 'UTF8')
          || decode('00', 'hex') || content
      ))
      || content
  );
end
$$;

comment on function relay.write_message(text, bytea, integer) is 'Writes a signed message into the log; called by relay.emit and relay.redrive.';

-- A new key: it signs from now on. What older keys signed is read on for as long as they stand in
-- the table. The running relay is told by a message that the key before signs, and reads the table.
create function relay.rotate_secret() returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  before integer := (select max(id) from relay.secret);
  made integer := relay.make_secret();
begin
  if before is not null then
    perform relay.write_message('relay.secret', convert_to(made::text, 'UTF8'), before);
  end if;
  return made;
end
$$;

comment on function relay.rotate_secret() is 'Makes a new key, which signs from now on; returns its id.';

-- The first key. Where a slot is there already, messages of the relay.emit of before may be unread.
select relay.make_secret(
  case when exists (
    select from pg_catalog.pg_replication_slots where database = current_database() and plugin = 'pgoutput'
  ) then pg_catalog.pg_current_wal_insert_lsn() end
);

-- Writes an event without any table: into the write-ahead log alone, in the
-- transaction of the caller, so that it is published if and only if that commits.
-- The fast road: no row, no index, no vacuum; and nothing to look up afterwards.
--
-- relay.emit has its arguments in the types that applications have, and calls this; the right to
-- execute this is the right to publish.
create function relay.emit_event(
  aggregate_type text,
  aggregate_id text,
  event_type text,
  data json,
  aggregate_version bigint,
  event_version text,
  tenant_id text,
  correlation_id text,
  causation_id text,
  metadata json,
  event_id uuid
) returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  id uuid := coalesce(event_id, relay.uuid_v7());
begin
  if not relay.is_name(aggregate_type) then
    perform relay.refuse('aggregate_type', 'a name of 1 to 255 bytes without spaces', aggregate_type);
  elsif not coalesce(aggregate_id <> '' and relay.fits(aggregate_id, 1024), false) then
    perform relay.refuse('aggregate_id', 'a key of 1 to 1024 bytes', aggregate_id);
  elsif not relay.is_name(event_type) then
    perform relay.refuse('event_type', 'a name of 1 to 255 bytes without spaces, such as order.created', event_type);
  elsif aggregate_version < 1 then
    perform relay.refuse('aggregate_version', '1 or more, or null', aggregate_version::text);
  elsif not coalesce(event_version <> '' and relay.fits(event_version, 255), false) then
    perform relay.refuse('event_version', 'a version of 1 to 255 bytes, such as 1.0', event_version);
  elsif not relay.fits(tenant_id, 128) then
    perform relay.refuse('tenant_id', 'at most 128 bytes, or null', tenant_id);
  elsif not relay.fits(correlation_id, 1024) then
    perform relay.refuse('correlation_id', 'at most 1024 bytes, or null', correlation_id);
  elsif not relay.fits(causation_id, 1024) then
    perform relay.refuse('causation_id', 'at most 1024 bytes, or null', causation_id);
  elsif data is null then
    perform relay.refuse('data', 'a JSON value ( ''null''::json is one )', null);
  elsif coalesce(json_typeof(metadata), 'null') <> 'object' then
    perform relay.refuse('metadata', 'a JSON object', left(metadata::text, 100));
  elsif not relay.fits(metadata::text, 65536) then
    perform relay.refuse('metadata', 'a JSON object of at most 65536 bytes', left(metadata::text, 100));
  end if;

  -- Built as text: the payload must come out byte for byte.
  perform relay.write_message(
    'relay.event',
    relay.bytes_of(
      '{"event_id":"' || id
        || '","recorded_at":"' || to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"'
        || ',"aggregate_type":' || to_json(aggregate_type)
        || ',"aggregate_id":' || to_json(aggregate_id)
        || ',"aggregate_version":' || coalesce(aggregate_version::text, 'null')
        || ',"event_type":' || to_json(event_type)
        || ',"event_version":' || to_json(event_version)
        || ',"tenant_id":' || coalesce(to_json(tenant_id)::text, 'null')
        || ',"correlation_id":' || coalesce(to_json(correlation_id)::text, 'null')
        || ',"causation_id":' || coalesce(to_json(causation_id)::text, 'null')
        || ',"data":' || data
        || ',"metadata":' || metadata
        || '}'
    )
  );
  return id;
end
$$;

comment on function relay.emit_event(text, text, text, json, bigint, text, text, text, text, json, uuid) is
  'Publishes an event with the caller''s transaction, without a row; returns its id. Called by relay.emit, which has the types of an application.';

-- relay.emit, for every type that a key and a payload have in an application. One function cannot
-- take them all: literals must find their type too. The planner puts relay.emit_event in their
-- place, so they cost nothing; each is qualified to the last name, so that no search_path matters.
drop function relay.emit(text, text, text, json, bigint, text, text, text, text, json, uuid);

do $do$
declare
  id text;
  payload text;
begin
  foreach id in array array['text', 'uuid', 'bigint'] loop
    foreach payload in array array['text', 'json', 'jsonb'] loop
      execute format($create$
        create function relay.emit(
          aggregate_type text,
          aggregate_id %1$s,
          event_type text,
          data %2$s,
          aggregate_version bigint default null,
          event_version text default '1.0',
          tenant_id text default null,
          correlation_id text default null,
          causation_id text default null,
          metadata anycompatible default '{}'::pg_catalog.text,
          event_id uuid default null
        ) returns uuid
        language sql
        volatile
        as $body$
          select relay.emit_event($1, $2::pg_catalog.text, $3, $4::pg_catalog.json, $5, $6, $7, $8, $9,
            $10::pg_catalog.json, $11)
        $body$
      $create$, id, payload);
      execute format($comment$
        comment on function relay.emit(text, %1$s, text, %2$s, bigint, text, text, text, text, anycompatible, uuid)
        is 'Publishes an event with the caller''s transaction, without a row; returns its id.'
      $comment$, id, payload);
    end loop;
  end loop;
end
$do$;

-- What the database's encoding cannot hold stands in bytes beside its readable form.
alter table relay.dead_letter
  add column content bytea,
  add column head json;

comment on column relay.dead_letter.body is 'The body as it would have been sent, or the row as it was read; escaped where content is not null.';
comment on column relay.dead_letter.content is 'The body''s bytes, where body cannot hold them: no text of the database''s encoding, or no text at all.';
comment on column relay.dead_letter.head is 'event_id, destination, key, event_type and attributes as they are, where the columns hold them escaped.';

-- Back into the stream: the letters go, and what they held comes to the relay again by the log,
-- in one transaction, so that it is in the one or in the other at any moment.
create or replace function relay.redrive(letters bigint[]) returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  letter relay.dead_letter;
  redriven bigint := 0;
begin
  for letter in
    -- What has no id was no event; what has no body was too large to be kept.
    select d.* from relay.dead_letter d
    where d.id = any (letters) and d.event_id is not null and d.body <> ''
    order by d.position, d.id
    for update
  loop
    delete from relay.dead_letter d where d.id = letter.id;
    -- The head's length, the head, the body: its bytes are never judged here.
    perform relay.write_message('relay.redrive', int4send(octet_length(head.bytes)) || head.bytes
        || coalesce(letter.content, relay.bytes_of(letter.body)))
      from (select relay.bytes_of(coalesce(letter.head, json_build_object(
        'event_id', letter.event_id, 'destination', letter.destination, 'key', letter.key, 'event_type', letter.event_type,
        'attributes', letter.attributes
      ))::text)) as head (bytes);
    redriven := redriven + 1;
  end loop;
  return redriven;
end
$$;

-- Whoever may use the schema, to insert into the outbox, may not therefore say anything to the relay.
revoke execute on function
  relay.make_secret(pg_lsn),
  relay.rotate_secret(),
  relay.write_message(text, bytea, integer),
  relay.emit_event(text, text, text, json, bigint, text, text, text, text, json, uuid),
  relay.redrive(bigint[])
from public;
