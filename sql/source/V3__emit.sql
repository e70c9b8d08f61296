-- Writes an event without any table: into the write-ahead log alone, in the
-- transaction of the caller, so that it is published if and only if that commits.
-- The fast road: no row, no index, no vacuum; and nothing to look up afterwards.
create function relay.emit(
  aggregate_type text,
  aggregate_id text,
  event_type text,
  data json,
  aggregate_version bigint default null,
  event_version text default '1.0',
  tenant_id text default null,
  correlation_id text default null,
  causation_id text default null,
  metadata json default '{}',
  event_id uuid default null
) returns uuid
language plpgsql
as $$
#variable_conflict use_variable
declare
  id uuid := coalesce(event_id, relay.uuid_v7());
begin
  if not coalesce(aggregate_type ~ '^[[:graph:]]{1,255}$', false) then
    perform relay.refuse('aggregate_type', 'a name of 1 to 255 characters without spaces', aggregate_type);
  elsif not coalesce(length(aggregate_id) between 1 and 1024, false) then
    perform relay.refuse('aggregate_id', 'a key of 1 to 1024 characters', aggregate_id);
  elsif not coalesce(event_type ~ '^[[:graph:]]{1,255}$', false) then
    perform relay.refuse('event_type', 'a name of 1 to 255 characters without spaces, such as order.created', event_type);
  elsif aggregate_version < 1 then
    perform relay.refuse('aggregate_version', '1 or more, or null', aggregate_version::text);
  elsif event_version is null then
    perform relay.refuse('event_version', 'a version such as 1.0', null);
  elsif data is null then
    perform relay.refuse('data', 'a JSON value ( ''null''::json is one )', null);
  elsif coalesce(json_typeof(metadata), 'null') <> 'object' then
    perform relay.refuse('metadata', 'a JSON object', left(metadata::text, 100));
  end if;

  -- Built as text: the payload must come out byte for byte.
  perform pg_logical_emit_message(
    true,
    'relay.event',
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
  );
  return id;
end
$$;

comment on function relay.emit(text, text, text, json, bigint, text, text, text, text, json, uuid) is
  'Publishes an event with the caller''s transaction, without a row; returns its id.';
