-- Makes the outbox's coming partitions and drops the ones that are done with.
--
-- ahead      how many days from today on must have a partition
-- keep       how long a partition is kept after its last day
-- confirmed  every transaction that committed up to this moment has been
--            published; null: nothing is known, so nothing is dropped
--
-- Returns what it did, a line each. Safe to call at any time, from any number
-- of sessions: one works, the others return at once.
create function relay.maintain_outbox(
  ahead integer default 7,
  keep interval default interval '7 days',
  confirmed timestamptz default null
) returns setof text
language plpgsql
as $$
declare
  day date;
  partition record;
  today date := (now() at time zone 'UTC')::date;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('relay.maintain_outbox', 0)) then
    return;
  end if;
  -- A long transaction of the application must not make its inserts queue behind this.
  perform set_config('lock_timeout', '2s', true);

  for day in select d::date from generate_series(today, today + ahead, interval '1 day') as d loop
    continue when to_regclass(format('relay.outbox_%s', to_char(day, 'YYYYMMDD'))) is not null;
    begin
      execute format(
        'create table relay.%I partition of relay.outbox for values from (%L) to (%L)',
        'outbox_' || to_char(day, 'YYYYMMDD'),
        day::text || ' 00:00:00+00',
        (day + 1)::text || ' 00:00:00+00'
      );
      return next format('created the partition of %s', day);
    exception
      -- Rows of that day are in the default partition already: they are as good there.
      when check_violation or lock_not_available then
        return next format('left the partition of %s for later: %s', day, sqlerrm);
    end;
  end loop;

  for partition in
    select c.oid::regclass as name, to_date(right(c.relname, 8), 'YYYYMMDD') as day
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'relay.outbox'::regclass and c.relname ~ '^outbox_[0-9]{8}$'
    order by 2
  loop
    continue when confirmed is null
      or (partition.day + 1)::timestamp at time zone 'UTC' + keep > least(confirmed, now());
    begin
      execute format('drop table %s', partition.name);
      return next format('dropped the partition of %s', partition.day);
    exception
      when lock_not_available then
        return next format('left the partition of %s for later: it is in use', partition.day);
    end;
  end loop;
end
$$;

comment on function relay.maintain_outbox(integer, interval, timestamptz) is
  'Makes the coming partitions of relay.outbox and drops those whose events were published.';

select relay.maintain_outbox();
