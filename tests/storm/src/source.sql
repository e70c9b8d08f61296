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
  bytes int not null,
  -- Whether it is to arrive: not a row of the outbox while that is not published.
  owed boolean not null,
  -- Bytes of it that are no text: it is to be a dead letter that holds them.
  marker bytea
);

-- The rows of the outbox are published; changed under a lock on all counters.
create table published (outbox boolean not null);
insert into published values (true);

-- The letters that were redriven, each noted in the transaction that sends it again.
create table redriven (
  letter bigint primary key,
  event_id uuid not null,
  error_code text,
  xid xid8 not null default pg_current_xact_id()
);

grant select, insert on redriven to relay;

-- The judge's own publication, for the commit of each transaction.
create publication judge for table journal, redriven;

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

-- One event of a key, by either road, with this note in its payload.
create function happen_with(
  a_kind text, a_key text, id uuid, emitted boolean, note text, marker bytea default null
) returns void
language plpgsql
as $$
declare
  next bigint;
  payload text;
begin
  update counter set n = n + 1 where kind = a_kind and key = a_key returning n into strict next;
  payload := '{"n": ' || next || ', "note": "' || note || '"}';
  if emitted then
    perform relay.emit(a_kind, a_key, 'key.counted', payload::json, next, event_id => id);
  else
    insert into relay.outbox
      (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, data)
    values (id, a_kind, a_key, next, 'key.counted', payload::json);
  end if;
  insert into journal (event_id, kind, key, n, digest, bytes, owed, marker)
  select id, a_kind, a_key, next, md5(relay.bytes_of(payload)), octet_length(payload),
    emitted or p.outbox, marker
  from published p;
end
$$;

-- The same with a note of so many bytes.
create function happen(a_kind text, a_key text, id uuid, emitted boolean, bytes int) returns void
language plpgsql
as $$
begin
  perform happen_with(a_kind, a_key, id, emitted, repeat('x', bytes));
end
$$;

-- The same with texts in the bytes of the database's encoding, of a key that may be new.
create function happen_odd(a_kind text, a_key bytea, id uuid, emitted boolean, note bytea, marker bytea) returns void
language plpgsql
as $$
declare
  name text := convert_from(a_key, getdatabaseencoding());
begin
  insert into counter (kind, key) values (a_kind, name) on conflict do nothing;
  perform happen_with(a_kind, name, id, emitted, convert_from(note, getdatabaseencoding()), marker);
end
$$;
