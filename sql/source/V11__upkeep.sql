-- The outbox's upkeep in steps, so that no insert waits for it.
--
-- A transaction that keeps a lock while it waits for the next one adds up its waits, and can end in
-- a deadlock with an insert. So a call does one step, and its transaction ends with it. What makes
-- others wait is asked for 50 ms at most, and what may be taken at once is taken first.
set local search_path = pg_catalog, pg_temp;

drop function relay.maintain_outbox(integer, interval, timestamptz);

-- Does the next step of the outbox's upkeep; call it again, in a transaction of its own, until it
-- has no more to do.
--
-- ahead      how many days from today on must have a partition
-- keep       how long a partition, and a row of the default partition, is kept after its last day
-- confirmed  every transaction that committed up to this moment has been published; null: nothing
--            is known, so nothing is emptied, deleted or dropped
--
-- Returns a row for each thing that it did or left, none when there is nothing to do:
--   create  a partition was made
--   empty   the rows of a partition that is done with are gone, its table is still there
--   delete  a thousand rows at most of the default partition that were done with are gone
--   drop    tables of emptied partitions are gone; once a minute is enough, an insert waits for it
--   left    something is to be done and could not be: why
-- Safe to call at any time, from any number of sessions: one works, the others return at once.
create function relay.maintain_outbox(
  ahead integer default 7,
  keep interval default interval '7 days',
  confirmed timestamptz default null,
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
  -- least() passes over a null, which here means that nothing is known.
  done_with timestamptz := case when confirmed is not null then least(confirmed, now()) - keep end;
  -- What has a partition; an end that is not there is MINVALUE or MAXVALUE.
  covered tstzmultirange;
  coming date;
  leaf record;
  emptied regclass[] := '{}';
  old regclass;
  number bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('relay.maintain_outbox', 0)) then
    return;
  end if;

  -- FOR VALUES FROM ('2026-01-15') TO ('2026-01-16'): the server tells them in no other form.
  select coalesce(range_agg(tstzrange(
      case when b not like '%FROM (MINVALUE)%' then split_part(b, '''', 2)::timestamptz end,
      case when b not like '%TO (MAXVALUE)' then split_part(b, '''', -2)::timestamptz end
    )), '{}') into covered
  from pg_inherits as i
  join pg_class as c on c.oid = i.inhrelid
  cross join pg_get_expr(c.relpartbound, c.oid) as b
  where i.inhparent = 'relay.outbox'::regclass and b <> 'DEFAULT';

  for coming in select d::date from generate_series(today, today + ahead, interval '1 day') as d loop
    continue when covered && tstzrange(coming::timestamptz, (coming + 1)::timestamptz);
    -- Attaching reads the whole default partition, and whoever inserts into it waits for that.
    if exists (
      select from relay.outbox_default as d
      where d.recorded_at >= coming::timestamptz and d.recorded_at < (coming + 1)::timestamptz
    ) then
      step := 'left';
      what := format('no partition for %s: rows of that day are in relay.outbox_default', coming);
      return next;
      continue;
    elsif pg_relation_size('relay.outbox_default') > 16777216 then
      step := 'left';
      what := format('no partition for %s: relay.outbox_default is larger than 16 MiB', coming);
      return next;
      exit;
    end if;
    begin
      -- Not "partition of", which would lock relay.outbox against every insert.
      execute format(
        'create table relay.%I (like relay.outbox including all excluding identity excluding comments)',
        'outbox_' || to_char(coming, 'YYYYMMDD')
      );
      execute format(
        'alter table relay.outbox attach partition relay.%I for values from (%L) to (%L)',
        'outbox_' || to_char(coming, 'YYYYMMDD'), coming::timestamptz, (coming + 1)::timestamptz
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

  if done_with is null then
    return;
  end if;

  for leaf in
    select c.oid::regclass as name, pg_relation_size(c.oid) as bytes
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    cross join pg_get_expr(c.relpartbound, c.oid) as e
    cross join nullif(split_part(e, '''', -2), '') as b
    where i.inhparent = 'relay.outbox'::regclass and c.relname ~ '^outbox_[0-9]{8}$'
      and e not like '%TO (MAXVALUE)' and b::timestamptz <= done_with
    order by b::timestamptz
  loop
    if leaf.bytes = 0 then
      emptied := emptied || leaf.name;
      continue;
    end if;
    begin
      -- It locks this partition alone.
      execute format('lock table only %s in access exclusive mode nowait', leaf.name);
      execute format('truncate %s', leaf.name);
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

  begin
    delete from relay.outbox_default as d
    where d.ctid = any (array(
      select o.ctid from relay.outbox_default as o
      where o.recorded_at < done_with
      order by o.recorded_at
      limit 1000
      for update skip locked
    ));
    get diagnostics number = row_count;
    if number > 0 then
      step := 'delete';
      what := format('deleted %s rows of relay.outbox_default', number);
      return next;
      return;
    end if;
  exception
    when others then
      step := 'left';
      what := format('relay.outbox_default is to be emptied: %s', sqlerrm);
      return next;
  end;

  number := 0;
  foreach old in array emptied loop
    exit when number = 8; -- each drop takes time while inserts wait
    begin
      -- Whoever reads the outbox has this lock too: then nobody is made to wait for the drop.
      execute format('lock table only %s in access exclusive mode nowait', old);
      if number = 0 then
        lock table only relay.outbox in access exclusive mode;
        lock table only relay.outbox_default in access exclusive mode nowait;
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
        exit when number = 0; -- the lock on relay.outbox was waited for once
      when others then
        step := 'left';
        what := format('%s is to be dropped: %s', old, sqlerrm);
        return next;
    end;
  end loop;
end
$$;

comment on function relay.maintain_outbox(integer, interval, timestamptz) is
  'Does the next step of the upkeep of relay.outbox: makes coming partitions, empties and drops those that are done with.';

-- What was made before V7 and is not said to look up names among Postgres's own alone.
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
      -- Its bodies are qualified to the last name (V8). A setting of their own would keep the planner
      -- from putting relay.emit_event in their place; polymorphic ones cannot be `begin atomic`.
      and not (p.proname = 'emit' and l.lanname = 'sql')
      and not exists (select from unnest(p.proconfig) as c where c like 'search_path=%')
      and pg_has_role(p.proowner, 'usage')
  loop
    execute format('alter routine %s set search_path = pg_catalog, pg_temp', careless);
  end loop;
end
$$;
