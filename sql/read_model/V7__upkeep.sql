-- The inbox's upkeep in steps, so that no insert waits for it.
--
-- A transaction that keeps a lock while it waits for the next one adds up its waits, and can end in
-- a deadlock with an insert. So a call does one step, and its transaction ends with it. What makes
-- others wait is asked for 50 ms at most, and what may be taken at once is taken first.
set local search_path = pg_catalog, pg_temp;

drop function relay.maintain_inbox(integer, interval);

-- Does the next step of the inbox's upkeep; call it again, in a transaction of its own, until it
-- has no more to do.
--
-- ahead  how many days from today on must have a partition
-- keep   how long an event is remembered after its day: longer than a queue can
--        hold a message (14 days) and a redrive can bring it back
--
-- Returns a row for each thing that it did or left, none when there is nothing to do:
--   create  a partition was made
--   empty   the rows of a partition that is done with are forgotten, its table is still there
--   delete  a thousand rows at most of the default partition are forgotten
--   drop    tables of emptied partitions are gone; an insert waits for it
--   left    something is to be done and could not be: why
-- Safe to call at any time, from any number of sessions: one works, the others return at once.
create function relay.maintain_inbox(
  ahead integer default 7,
  keep interval default interval '30 days',
  out step text,
  out what text
) returns setof record
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set lock_timeout = '50ms'
as $$
declare
  today date := (now() at time zone 'UTC')::date;
  first_kept date := ((now() at time zone 'UTC')::date - keep)::date;
  -- What has a partition; an end that is not there is MINVALUE or MAXVALUE.
  covered datemultirange;
  coming date;
  leaf record;
  emptied regclass[] := '{}';
  old regclass;
  number bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('relay.maintain_inbox', 0)) then
    return;
  end if;

  -- FOR VALUES FROM ('2026-01-15') TO ('2026-01-16'): the server tells them in no other form.
  select coalesce(range_agg(daterange(
      case when b not like '%FROM (MINVALUE)%' then split_part(b, '''', 2)::date end,
      case when b not like '%TO (MAXVALUE)' then split_part(b, '''', -2)::date end
    )), '{}') into covered
  from pg_inherits as i
  join pg_class as c on c.oid = i.inhrelid
  cross join pg_get_expr(c.relpartbound, c.oid) as b
  where i.inhparent = 'relay.inbox'::regclass and b <> 'DEFAULT';

  for coming in select d::date from generate_series(today, today + ahead, interval '1 day') as d loop
    continue when covered && daterange(coming, coming + 1);
    -- Attaching reads the whole default partition, and whoever inserts into it waits for that.
    if exists (
      select from relay.inbox_default as d where d.day = coming
    ) then
      step := 'left';
      what := format('no partition for %s: rows of that day are in relay.inbox_default', coming);
      return next;
      continue;
    elsif pg_relation_size('relay.inbox_default') > 16777216 then
      step := 'left';
      what := format('no partition for %s: relay.inbox_default is larger than 16 MiB', coming);
      return next;
      exit;
    end if;
    begin
      -- Not "partition of", which would lock relay.inbox against every insert.
      execute format(
        'create table relay.%I (like relay.inbox including all excluding identity excluding comments)',
        'inbox_' || to_char(coming, 'YYYYMMDD')
      );
      execute format(
        'alter table relay.inbox attach partition relay.%I for values from (%L) to (%L)',
        'inbox_' || to_char(coming, 'YYYYMMDD'), coming, coming + 1
      );
      perform set_config('synchronous_commit', 'off', true);
      step := 'create';
      what := format('created the partition of %s', coming);
      return next;
      return;
    exception
      when lock_not_available or deadlock_detected then
        step := 'left';
        what := format('no partition for %s yet: %s', coming, sqlerrm);
        return next;
        exit; -- the next one needs the same lock
      when others then
        step := 'left';
        what := format('no partition for %s: %s', coming, sqlerrm);
        return next;
    end;
  end loop;

  for leaf in
    select c.oid::regclass as name, pg_relation_size(c.oid) as bytes, b::date as until
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    cross join pg_get_expr(c.relpartbound, c.oid) as e
    cross join nullif(split_part(e, '''', -2), '') as b
    where i.inhparent = 'relay.inbox'::regclass and c.relname ~ '^inbox_[0-9]{8}$'
      and e not like '%TO (MAXVALUE)' and b::date <= first_kept
    order by b::date
  loop
    if leaf.bytes = 0 then
      emptied := emptied || leaf.name;
      continue;
    end if;
    begin
      -- It locks this partition alone.
      execute format('lock table only %s in access exclusive mode nowait', leaf.name);
      execute format('truncate %s', leaf.name);
      -- In the same transaction: no event is ever taken for new because its day was forgotten.
      update relay.inbox_horizon as h set day = greatest(h.day, leaf.until);
      step := 'empty';
      what := format('emptied %s', leaf.name);
      return next;
      return;
    exception
      when others then
        step := 'left';
        what := format('%s is to be emptied and is in use: %s', leaf.name, sqlerrm);
        return next;
    end;
  end loop;

  -- The default partition also holds old events that came late, as in a replay, and the other those
  -- whose id tells no day: they are remembered for `keep` from when they came, and to the end of that
  -- day, as the horizon is a day.
  foreach old in array array['relay.inbox_default', 'relay.inbox_other_ids']::regclass[] loop
    continue when pg_relation_size(old) = 0;
    begin
      execute format(
        'delete from %1$s as d where d.ctid = any (array(
           select o.ctid from %1$s as o where o.day < $1 and o.processed_at < $1::timestamptz
           limit 1000 for update skip locked))',
        old
      ) using first_kept;
      get diagnostics number = row_count;
      if number > 0 then
        update relay.inbox_horizon as h set day = greatest(h.day, first_kept);
        step := 'delete';
        what := format('deleted %s rows of %s', number, old);
        return next;
        return;
      end if;
    exception
      when others then
        step := 'left';
        what := format('%s is to be emptied: %s', old, sqlerrm);
        return next;
    end;
  end loop;

  number := 0;
  foreach old in array emptied loop
    exit when number = 8; -- each drop takes time while inserts wait
    begin
      -- Whoever reads the inbox has this lock too: then nobody is made to wait for the drop.
      execute format('lock table only %s in access exclusive mode nowait', old);
      if number = 0 then
        lock table only relay.inbox in access exclusive mode;
        lock table only relay.inbox_default in access exclusive mode nowait;
        perform set_config('synchronous_commit', 'off', true);
      end if;
      continue when pg_relation_size(old) > 0;
      what := format('dropped %s', old);
      execute format('drop table %s', old);
      number := number + 1;
      step := 'drop';
      return next;
    exception
      when lock_not_available or deadlock_detected then
        step := 'left';
        what := format('%s is to be dropped and is in use', old);
        return next;
        exit when number = 0; -- the lock on relay.inbox was waited for once
      when others then
        step := 'left';
        what := format('%s is to be dropped: %s', old, sqlerrm);
        return next;
    end;
  end loop;
end
$$;

comment on function relay.maintain_inbox(integer, interval) is
  'Does the next step of the upkeep of relay.inbox: makes coming partitions, empties and drops those that are done with.';


create or replace function relay.event_day(event_id uuid) returns date
language sql
immutable
strict
parallel safe
begin atomic
  -- Consumers know no year beyond 9999, and take the timestamp's day then.
  select case
    when substr(event_id::text, 15, 1) = '7' and event_id < 'e677d21f-dc00-7000-8000-000000000000'
    then (
      timestamp '1970-01-01' + interval '1 second'
        * (('x' || translate(left(event_id::text, 13), '-', ''))::bit(48)::bigint / 1000)
    )::date
  end;
end;

-- What was made before and is not said to look up names among Postgres's own alone.
do $$
declare
  careless regprocedure;
begin
  for careless in
    select p.oid
    from pg_proc as p
    join pg_language as l on l.oid = p.prolang
    where p.pronamespace = 'relay'::regnamespace
      and l.lanname in ('plpgsql', 'sql')
      and p.prosqlbody is null
      -- Qualified to the last name; a setting would keep the planner from putting it in place.
      and not (p.proname = 'emit' and l.lanname = 'sql')
      and not exists (select from unnest(p.proconfig) as c where c like 'search_path=%')
      and pg_has_role(p.proowner, 'usage')
  loop
    execute format('alter routine %s set search_path = pg_catalog, pg_temp', careless);
  end loop;
end
$$;
