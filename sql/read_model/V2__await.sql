-- Read-your-writes: waiting until a projection has come to a version of an
-- aggregate, or to an event.
--
-- The functions here poll. A program that can LISTEN is woken instead: it writes
-- into relay.awaited what it waits for, and the transaction that brings it there
-- notifies the channel relay_progress. NOTIFY takes a lock that commits of the
-- whole server queue for, so a transaction notifies only what is being waited for.

-- Whether the projection has come to the version of the aggregate, or beyond it.
-- Parked events count: the projection went on without them.
create function relay.version_reached(
  projection text,
  aggregate_type text,
  aggregate_id text,
  version bigint
) returns boolean
language plpgsql
stable
strict
as $$
begin
  return exists (
    select from relay.progress as p
    where p.projection = $1 and p.aggregate_type = $2 and p.aggregate_id = $3 and p.version >= $4
  );
end
$$;

comment on function relay.version_reached(text, text, text, bigint) is
  'Whether the projection has come to this version of the aggregate, or beyond it.';

-- The day that an event stands under in relay.inbox, as far as its id tells: that
-- of a UUIDv7. Null for others, which stand under the day of their timestamp.
create function relay.event_day(event_id uuid) returns date
language sql
immutable
strict
parallel safe
as $$
  -- Consumers know no year beyond 9999, and take the timestamp's day then.
  select case
    when substr(event_id::text, 15, 1) = '7' and event_id < 'e677d21f-dc00-7000-8000-000000000000'
    then (
      timestamp '1970-01-01' + interval '1 second'
        * (('x' || translate(left(event_id::text, 13), '-', ''))::bit(48)::bigint / 1000)
    )::date
  end
$$;

comment on function relay.event_day(uuid) is 'The day of a UUIDv7; null for other ids.';

-- Whether the event is settled for the projection: it had its effect, or was parked.
create function relay.event_reached(projection text, event_id uuid) returns boolean
language plpgsql
stable
strict
as $$
declare
  event_day date := relay.event_day($2);
begin
  if event_day is null then
    return exists (select from relay.inbox as i where i.projection = $1 and i.event_id = $2);
  end if;
  -- The day spares the other partitions.
  return exists (
    select from relay.inbox as i
    where i.projection = $1 and i.event_id = $2 and i.day = event_day
  );
end
$$;

comment on function relay.event_reached(text, uuid) is
  'Whether the event had its effect in the projection, or was parked.';

-- Sleeps between two looks at what is waited for, 5 ms and twice as long each time,
-- 100 ms at most; false when the deadline has come. A wait within one statement sees
-- others' commits at READ COMMITTED alone.
create function relay.pause_before(deadline timestamptz, looks integer) returns boolean
language plpgsql
volatile
strict
as $$
declare
  remaining double precision := extract(epoch from deadline - clock_timestamp());
begin
  if remaining <= 0 then
    return false;
  end if;
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'relay: a wait must be at read committed, found %', current_setting('transaction_isolation')
      using errcode = 'object_not_in_prerequisite_state',
        hint = 'Such a transaction sees nothing that is committed after its first statement: wait before it begins.';
  end if;
  perform pg_sleep(least(0.005 * 2 ^ least(looks, 5), 0.1, remaining));
  return true;
end
$$;

comment on function relay.pause_before(timestamptz, integer) is
  'Sleeps between two looks at what is waited for; false when the deadline has come. Raises object_not_in_prerequisite_state in a transaction that cannot see what is waited for.';

-- Waits until the projection has come to the version of the aggregate; false when
-- it has not within `timeout`. The projection's mode must be Versioned or Latest.
--
-- Call it in a statement of its own, before the one that reads: a statement does
-- not see what was committed after it began, however long a function in it waits.
create function relay.await_version(
  projection text,
  aggregate_type text,
  aggregate_id text,
  version bigint,
  timeout interval default interval '5 seconds'
) returns boolean
language plpgsql
volatile
strict
as $$
declare
  deadline timestamptz := clock_timestamp() + timeout;
  looks integer := 0;
begin
  while not relay.version_reached(projection, aggregate_type, aggregate_id, version) loop
    if not relay.pause_before(deadline, looks) then
      return false;
    end if;
    looks := looks + 1;
  end loop;
  return true;
end
$$;

comment on function relay.await_version(text, text, text, bigint, interval) is
  'Waits until the projection has come to this version of the aggregate; false when it has not in time.';

-- Waits until the event had its effect in the projection, or was parked; false when
-- it had not within `timeout`. For every mode, but for events that in mode Latest
-- came too late to have an effect. Call it in a statement of its own, too.
create function relay.await_event(
  projection text,
  event_id uuid,
  timeout interval default interval '5 seconds'
) returns boolean
language plpgsql
volatile
strict
as $$
declare
  deadline timestamptz := clock_timestamp() + timeout;
  looks integer := 0;
begin
  while not relay.event_reached(projection, event_id) loop
    if not relay.pause_before(deadline, looks) then
      return false;
    end if;
    looks := looks + 1;
  end loop;
  return true;
end
$$;

comment on function relay.await_event(text, uuid, interval) is
  'Waits until the event had its effect in the projection, or was parked; false when it had not in time.';

-- What is waited for, in 64 bits: the payload of a notification, which every role
-- of the database may hear, shows no one's key and is never too long. Two that
-- share a number wake each other for nothing.
create function relay.await_key(projection text, aggregate_type text, aggregate_id text) returns bigint
language sql
immutable
strict
parallel safe
as $$
  select hashtextextended(projection || E'\n' || aggregate_type || E'\n' || aggregate_id, 0)
$$;

comment on function relay.await_key(text, text, text) is 'The number under which an aggregate in a projection is waited for.';

create function relay.await_key(projection text, event_id uuid) returns bigint
language sql
immutable
strict
parallel safe
as $$
  select hashtextextended(projection || E'\n' || event_id::text, 0)
$$;

comment on function relay.await_key(text, uuid) is 'The number under which an event in a projection is waited for.';

-- Unlogged: a wait does not outlive a crash, and costs no write-ahead log.
create unlogged table relay.awaited (
  key bigint not null,
  waiter uuid not null,
  expires_at timestamptz not null,
  primary key (key, waiter)
);

comment on table relay.awaited is 'What is being waited for; a transaction that brings it about notifies relay_progress.';
comment on column relay.awaited.key is 'relay.await_key of what is waited for: the payload of the notification.';
comment on column relay.awaited.waiter is 'Who waits.';
comment on column relay.awaited.expires_at is 'When the wait is over at the latest: a waiter that died is not notified for ever.';

-- Every consumer's transaction looks here. It holds numbers and times alone.
grant select on relay.awaited to public;

-- After each statement, not for each row: a batch is one statement, and where no
-- one waits, one look into an empty table is all that it costs.
create function relay.notify_version() returns trigger
language plpgsql
as $$
begin
  if exists (select from relay.awaited) then
    perform pg_notify('relay_progress', a.key::text)
    from moved as m
    join relay.awaited as a
      on a.key = relay.await_key(m.projection, m.aggregate_type, m.aggregate_id)
    where a.expires_at > clock_timestamp();
  end if;
  return null;
end
$$;

comment on function relay.notify_version() is 'Notifies relay_progress of the aggregates that are waited for.';

create function relay.notify_event() returns trigger
language plpgsql
as $$
begin
  if exists (select from relay.awaited) then
    perform pg_notify('relay_progress', a.key::text)
    from arrived as i
    join relay.awaited as a on a.key = relay.await_key(i.projection, i.event_id)
    where a.expires_at > clock_timestamp();
  end if;
  return null;
end
$$;

comment on function relay.notify_event() is 'Notifies relay_progress of the events that are waited for.';

create trigger notify_inserted
  after insert on relay.progress
  referencing new table as moved
  for each statement execute function relay.notify_version();

comment on trigger notify_inserted on relay.progress is 'Wakes those who wait for an aggregate that had no progress yet.';

create trigger notify_updated
  after update on relay.progress
  referencing new table as moved
  for each statement execute function relay.notify_version();

comment on trigger notify_updated on relay.progress is 'Wakes those who wait for an aggregate.';

create trigger notify_inserted
  after insert on relay.inbox
  referencing new table as arrived
  for each statement execute function relay.notify_event();

comment on trigger notify_inserted on relay.inbox is 'Wakes those who wait for an event.';
