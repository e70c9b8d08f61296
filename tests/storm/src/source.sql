-- The judge's truth: each event has a row here, written in its own transaction, and its
-- number among the events of its key is assigned under a lock on the key's row that is held
-- until the commit. So the numbers of a key are in commit order, and a number that was
-- rolled back is given again.
create table counter (
  kind text,
  key text,
  n bigint not null default 0,
  primary key (kind, key)
);

create table journal (
  event_id uuid primary key,
  xid xid8 not null default pg_current_xact_id(),
  kind text not null,
  key text not null,
  n bigint not null,
  digest text not null
);

-- One event of a key, by either road, with a note of so many bytes.
create function happen(a_kind text, a_key text, id uuid, emitted boolean, bytes int) returns void
language plpgsql
as $$
declare
  next bigint;
  payload text;
begin
  update counter set n = n + 1 where kind = a_kind and key = a_key returning n into strict next;
  payload := '{"n": ' || next || ', "note": "' || repeat('x', bytes) || '"}';
  if emitted then
    perform relay.emit(a_kind, a_key, 'key.counted', payload::json, next, event_id => id);
  else
    insert into relay.outbox
      (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, data)
    values (id, a_kind, a_key, next, 'key.counted', payload::json);
  end if;
  insert into journal (event_id, kind, key, n, digest)
  values (id, a_kind, a_key, next, md5(payload));
end
$$;
