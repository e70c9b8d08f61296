-- The inbox: which events have had their effect, for each projection.
--
-- A consumer writes an event's row in the transaction of its effect. A second
-- delivery finds the row and does nothing.

create schema if not exists relay;

create table relay.inbox (
  projection text not null,
  event_id uuid not null,
  -- The event's own day, so that a redelivery looks into the same partition
  -- however late it comes.
  day date not null,
  position bigint generated always as identity,
  aggregate_type text not null,
  aggregate_id text not null,
  aggregate_version bigint,
  sent_at timestamptz,
  processed_at timestamptz not null default clock_timestamp(),
  content uuid not null,
  primary key (projection, event_id, day)
) partition by range (day);

comment on table relay.inbox is 'Events that have had their effect, for each projection; by the event''s day.';
comment on column relay.inbox.projection is 'The projection, with its version where it has one.';
comment on column relay.inbox.event_id is 'The event.';
comment on column relay.inbox.day is 'The day of the event itself: of its UUIDv7, or of its timestamp.';
comment on column relay.inbox.position is 'The order in which events had their effect.';
comment on column relay.inbox.aggregate_type is 'The kind of thing the event happened to.';
comment on column relay.inbox.aggregate_id is 'Which one.';
comment on column relay.inbox.aggregate_version is 'Its version after the event, where the author keeps one.';
comment on column relay.inbox.sent_at is 'When the queue received the message.';
comment on column relay.inbox.processed_at is 'When the event had its effect.';
comment on column relay.inbox.content is 'What it said, as a UUIDv5: the same id with another content is refused.';

create table relay.inbox_default partition of relay.inbox default;

comment on table relay.inbox_default is 'Events of days that had no partition of their own.';

-- What is older than this was forgotten: an event of such a day that carries no
-- version cannot be told from a redelivery, so consumers park it.
create table relay.inbox_horizon (
  only_row boolean primary key default true check (only_row),
  day date not null
);

comment on table relay.inbox_horizon is 'The first day that the inbox still remembers.';
comment on column relay.inbox_horizon.only_row is 'True: there is one row.';
comment on column relay.inbox_horizon.day is 'Events of earlier days without a version are parked, not applied.';

insert into relay.inbox_horizon (day) values ('-infinity');

create table relay.progress (
  projection text not null,
  aggregate_type text not null,
  aggregate_id text not null,
  version bigint not null,
  position text not null default '',
  primary key (projection, aggregate_type, aggregate_id)
);

comment on table relay.progress is 'How far each projection has come with each aggregate.';
comment on column relay.progress.projection is 'The projection.';
comment on column relay.progress.aggregate_type is 'The kind of thing.';
comment on column relay.progress.aggregate_id is 'Which one.';
comment on column relay.progress.version is 'The version of the last event applied to it; 0 where that had none.';
comment on column relay.progress.position is 'The position of that event in its stream, where it had one.';

create table relay.parked (
  id bigint generated always as identity primary key,
  projection text not null,
  event_id uuid not null,
  event_type text not null,
  aggregate_type text not null,
  aggregate_id text not null,
  reason text not null,
  body text not null,
  parked_at timestamptz not null default now(),
  unique (projection, event_id)
);

comment on table relay.parked is 'Events that a projection refused, whole, with the reason.';
comment on column relay.parked.id is 'The order of parking.';
comment on column relay.parked.projection is 'The projection.';
comment on column relay.parked.event_id is 'The event.';
comment on column relay.parked.event_type is 'What happened.';
comment on column relay.parked.aggregate_type is 'The kind of thing it happened to.';
comment on column relay.parked.aggregate_id is 'Which one.';
comment on column relay.parked.reason is 'Why the projection refused it.';
comment on column relay.parked.body is 'The message as it came.';
comment on column relay.parked.parked_at is 'When.';

-- Makes the inbox's coming partitions and drops those older than `keep`.
--
-- ahead  how many days from today on must have a partition
-- keep   how long an event is remembered after its day: longer than a queue can
--        hold a message (14 days) and a redrive can bring it back
--
-- Returns what it did, a line each. Safe to call at any time, from any number of
-- sessions: one works, the others return at once.
create function relay.maintain_inbox(
  ahead integer default 7,
  keep interval default interval '30 days'
) returns setof text
language plpgsql
as $$
declare
  each_day date;
  partition record;
  forgotten bigint;
  today date := (now() at time zone 'UTC')::date;
  first_kept date := ((now() at time zone 'UTC')::date - keep)::date;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('relay.maintain_inbox', 0)) then
    return;
  end if;
  perform set_config('lock_timeout', '2s', true);

  for each_day in select d::date from generate_series(today, today + ahead, interval '1 day') as d loop
    continue when to_regclass(format('relay.inbox_%s', to_char(each_day, 'YYYYMMDD'))) is not null;
    begin
      execute format(
        'create table relay.%I partition of relay.inbox for values from (%L) to (%L)',
        'inbox_' || to_char(each_day, 'YYYYMMDD'), each_day, each_day + 1
      );
      return next format('created the partition of %s', each_day);
    exception
      -- Rows of that day are in the default partition already: they are as good there.
      when check_violation or lock_not_available then
        return next format('left the partition of %s for later: %s', each_day, sqlerrm);
    end;
  end loop;

  for partition in
    select c.oid::regclass as name, to_date(right(c.relname, 8), 'YYYYMMDD') as day
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'relay.inbox'::regclass and c.relname ~ '^inbox_[0-9]{8}$'
    order by 2
  loop
    continue when partition.day >= first_kept;
    begin
      -- The horizon moves in the same transaction: no event is ever taken for new
      -- because its day was forgotten.
      execute format('drop table %s', partition.name);
      update relay.inbox_horizon as h set day = greatest(h.day, partition.day + 1);
      return next format('dropped the partition of %s', partition.day);
    exception
      when lock_not_available then
        return next format('left the partition of %s for later: it is in use', partition.day);
    end;
  end loop;

  -- The default partition also holds old events that came late, as in a replay:
  -- those are remembered for `keep` from when they came.
  with gone as (
    delete from relay.inbox_default as d
    where d.day < first_kept and d.processed_at < now() - keep
    returning d.day
  )
  select count(*) into forgotten from gone;
  if forgotten > 0 then
    update relay.inbox_horizon as h set day = greatest(h.day, first_kept);
    return next format('forgot %s events of the default partition', forgotten);
  end if;
end
$$;

comment on function relay.maintain_inbox(integer, interval) is
  'Makes the coming partitions of relay.inbox and drops those older than keep.';

select relay.maintain_inbox();
