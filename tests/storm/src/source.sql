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
  digest text not null,
  bytes int not null
);

-- The letters that were redriven, each noted in the transaction that sends it again.
create table redriven (
  letter bigint primary key,
  event_id uuid not null,
  error_code text,
  xid xid8 not null default pg_current_xact_id()
);

create function note_redriven() returns trigger
language plpgsql
as $$
begin
  insert into public.redriven (letter, event_id, error_code) values (old.id, old.event_id, old.error_code);
  return old;
end
$$;

create trigger note_redriven after delete on relay.dead_letter
for each row execute function note_redriven();

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
  insert into journal (event_id, kind, key, n, digest, bytes)
  values (id, a_kind, a_key, next, md5(payload), octet_length(payload));
end
$$;
