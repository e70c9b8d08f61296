-- The outbox: events that wait in the application's own transactions.
--
-- An application inserts a row in the transaction of the business change; the
-- relay reads it from the write-ahead log and publishes it. The table is
-- transient: no one reads it but for `relay recover`, and its partitions are
-- dropped by the day once they lie behind what the relay has confirmed.

create schema if not exists relay;

comment on schema relay is 'Relay: events on their way out of this database.';

-- A UUID of version 7 (RFC 9562): it sorts by time, so ids made together stand together.
-- Postgres has uuidv7() itself from 18 on; this works on every supported version.
create function relay.uuid_v7() returns uuid
language sql
volatile
parallel safe
as $$
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
  )::uuid
$$;

comment on function relay.uuid_v7() is 'A UUID of version 7: time first, then random bits.';

-- Called by check constraints, and only when a value is refused: the error says
-- what was expected, what was found and what to do, which a bare constraint cannot.
create function relay.refuse(column_name text, expected text, given text) returns boolean
language plpgsql
volatile -- or the planner would call it ahead of time
as $$
begin
  raise exception 'relay: % must be %, found %', column_name, expected,
    case when given is null then 'null' else quote_literal(left(given, 100)) end
    using errcode = 'check_violation',
      hint = 'Correct the value in the statement that writes the event; the transaction was not changed by it.';
end
$$;

comment on function relay.refuse(text, text, text) is 'Raises check_violation with what was expected and what was found.';

create table relay.outbox (
  -- Before position: a row must have its transaction id before its number, or
  -- readers by position could pass it unseen.
  tx_id xid8 not null default pg_current_xact_id(),
  position bigint generated always as identity,
  recorded_at timestamptz not null default now(),
  event_id uuid not null default relay.uuid_v7(),
  aggregate_version bigint,
  aggregate_type text,
  aggregate_id text,
  event_type text,
  event_version text not null default '1.0',
  tenant_id text,
  correlation_id text,
  causation_id text,
  -- json, not jsonb: it arrives byte for byte, and drains a third faster.
  data json,
  metadata json not null default '{}',
  primary key (recorded_at, position),
  constraint aggregate_type_is_a_name check (
    coalesce(aggregate_type ~ '^[[:graph:]]{1,255}$', false)
    or relay.refuse('aggregate_type', 'a name of 1 to 255 characters without spaces', aggregate_type)
  ),
  constraint aggregate_id_is_a_key check (
    coalesce(length(aggregate_id) between 1 and 1024, false)
    or relay.refuse('aggregate_id', 'a key of 1 to 1024 characters', aggregate_id)
  ),
  constraint aggregate_version_counts_from_one check (
    coalesce(aggregate_version >= 1, true)
    or relay.refuse('aggregate_version', '1 or more, or null', aggregate_version::text)
  ),
  constraint event_type_is_a_name check (
    coalesce(event_type ~ '^[[:graph:]]{1,255}$', false)
    or relay.refuse('event_type', 'a name of 1 to 255 characters without spaces, such as order.created', event_type)
  ),
  constraint data_is_there check (
    data is not null
    or relay.refuse('data', 'a JSON value ( ''null''::json is one )', null)
  ),
  constraint metadata_is_an_object check (
    json_typeof(metadata) = 'object'
    or relay.refuse('metadata', 'a JSON object', left(metadata::text, 100))
  )
) partition by range (recorded_at);

comment on table relay.outbox is 'Events to publish, written in the transaction of the business change; by day, dropped once published.';
comment on column relay.outbox.tx_id is 'The transaction that wrote the event.';
comment on column relay.outbox.position is 'The order of writing; gaps where a transaction was rolled back.';
comment on column relay.outbox.recorded_at is 'When the transaction began: the event''s timestamp, and its partition.';
comment on column relay.outbox.event_id is 'The event''s identity, the same however often it is sent.';
comment on column relay.outbox.aggregate_version is 'The aggregate''s version after the event, from 1; null where the author keeps none.';
comment on column relay.outbox.aggregate_type is 'The kind of thing it happened to, such as order.';
comment on column relay.outbox.aggregate_id is 'Which one: the ordering key.';
comment on column relay.outbox.event_type is 'What happened, such as order.created.';
comment on column relay.outbox.event_version is 'The version of the shape of data.';
comment on column relay.outbox.tenant_id is 'Whose event it is.';
comment on column relay.outbox.correlation_id is 'The business operation that the event is part of.';
comment on column relay.outbox.causation_id is 'The event or command that caused this one.';
comment on column relay.outbox.data is 'The payload; arrives byte for byte.';
comment on column relay.outbox.metadata is 'A JSON object beside the payload: user_id, traceparent and the like.';

-- No insert waits for a partition: what no partition is there for lands here.
create table relay.outbox_default partition of relay.outbox default;

comment on table relay.outbox_default is 'Rows of days that had no partition of their own when they were written.';
