-- Identity: an aggregate is tenant, type and id; an event is its id, whatever its day; a position
-- has an epoch.

-- 1. The tenant, '' where none is used.
alter table relay.progress add column tenant_id text not null default '';
alter table relay.inbox add column tenant_id text not null default '';
alter table relay.parked add column tenant_id text not null default '';
alter table relay.effect add column tenant_id text not null default '';

comment on column relay.progress.tenant_id is 'Whose it is; empty where no tenants are used.';
comment on column relay.inbox.tenant_id is 'Whose event it is; empty where no tenants are used.';
comment on column relay.parked.tenant_id is 'Whose event it is; empty where no tenants are used.';
comment on column relay.effect.tenant_id is 'Whose event it is; empty where no tenants are used.';

alter table relay.progress drop constraint progress_pkey;
alter table relay.progress
  add constraint progress_pkey primary key (projection, tenant_id, aggregate_type, aggregate_id);

drop index relay.effect_in_order;
create index effect_in_order on relay.effect (projection, tenant_id, aggregate_type, aggregate_id, place);

-- Whose aggregates the rows of before are nobody knows: -1 marks them. The consumer gives such a row
-- to the first tenant whose event of that aggregate comes, so that none is applied twice or waits for
-- versions that came long ago. An event without a tenant takes the row as it is.
comment on column relay.progress.moved_from is
  'The version before it was moved last; 0 where it was new, -1 where it was written before there were tenants.';

-- 2. Positions of before are of epoch 0. The width is fixed, so that texts compare as positions do.
update relay.progress
set moved_from = -1,
  position = case when position ~ '^[0-9a-f]{16}-[0-9a-f]{8}$'
    then '0000000000000000-' || split_part(position, '-', 1) || '-00000000' || split_part(position, '-', 2)
    else position end;

-- Messages that were kept whole say whose they are: effects are begun in the order of their aggregate.
do $$
declare
  kept record;
begin
  for kept in select e.projection, e.event_id, e.body from relay.effect as e loop
    begin
      update relay.effect as e
      set tenant_id = coalesce(kept.body::json -> 'metadata' ->> 'tenant_id', '')
      where e.projection = kept.projection and e.event_id = kept.event_id;
    exception
      when others then null; -- another format: no tenant is known
    end;
  end loop;
  for kept in select p.id, p.body from relay.parked as p loop
    begin
      update relay.parked as p
      set tenant_id = coalesce(kept.body::json -> 'metadata' ->> 'tenant_id', '')
      where p.id = kept.id;
    exception
      when others then null;
    end;
  end loop;
end
$$;

-- 3. The day of an inbox row is a function of the id alone: that of a UUIDv7, and one day for all
-- other ids, 0001-01-01, which has a partition of its own. An id that came at 23:59 and again, under
-- another timestamp, at 00:01 is found. Its rows are forgotten one by one, by when they came: the
-- default partition stays small, so that coming days can be attached beside it.
create table relay.inbox_other_ids partition of relay.inbox for values from (minvalue) to ('0001-01-02');

comment on table relay.inbox_other_ids is 'Events whose id tells no day, such as those of changes of tables.';

with moved as (
  delete from relay.inbox where relay.event_day(event_id) is null and day <> date '0001-01-01' returning *
)
insert into relay.inbox (projection, event_id, day, position, aggregate_type, aggregate_id,
  aggregate_version, sent_at, processed_at, content)
overriding system value
select distinct on (projection, event_id) projection, event_id, date '0001-01-01', position,
  aggregate_type, aggregate_id, aggregate_version, sent_at, processed_at, content
from moved
order by projection, event_id, position
on conflict do nothing;

comment on column relay.inbox.day is 'The day of a UUIDv7; 0001-01-01 for all other ids.';
-- By it the rows to forget are found without reading the others.
create index inbox_other_ids_by_processed_at on relay.inbox_other_ids using brin (processed_at);

create or replace function relay.event_reached(projection text, event_id uuid) returns boolean
language plpgsql
stable
strict
as $$
declare
  -- The day spares the other partitions.
  event_day date := coalesce(relay.event_day($2), date '0001-01-01');
begin
  return exists (
    select from relay.inbox as i
    where i.projection = $1 and i.event_id = $2 and i.day = event_day
  );
end
$$;

-- 4. Other content under an id that is known is kept, each of it once.
alter table relay.parked add column content uuid not null default '00000000-0000-0000-0000-000000000000';
comment on column relay.parked.content is
  'What the event said, as in relay.inbox; all zeros for a parked effect, and for events parked before.';
alter table relay.parked drop constraint parked_projection_event_id_key;
create unique index parked_once on relay.parked (projection, event_id, content);

-- 5. Read-your-writes for an aggregate of a tenant. Without one the functions of before go on.
create or replace function relay.version_reached(
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
    where p.projection = $1 and p.tenant_id = '' and p.aggregate_type = $2 and p.aggregate_id = $3
      and p.version >= $4
  );
end
$$;

create function relay.version_reached(
  projection text,
  tenant_id text,
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
    where p.projection = $1 and p.tenant_id in ($2, '') and p.aggregate_type = $3 and p.aggregate_id = $4
      and p.version >= $5 and (p.tenant_id = $2 or p.moved_from = -1)
  );
end
$$;

comment on function relay.version_reached(text, text, text, text, bigint) is
  'Whether the projection has come to this version of the tenant''s aggregate, or beyond it.';

create function relay.await_version(
  projection text,
  tenant_id text,
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
  while not relay.version_reached(projection, tenant_id, aggregate_type, aggregate_id, version) loop
    if not relay.pause_before(deadline, looks) then
      return false;
    end if;
    looks := looks + 1;
  end loop;
  return true;
end
$$;

comment on function relay.await_version(text, text, text, text, bigint, interval) is
  'Waits until the projection has come to this version of the tenant''s aggregate; false when it has not in time.';

create function relay.await_key(projection text, tenant_id text, aggregate_type text, aggregate_id text) returns bigint
language sql
immutable
strict
parallel safe
as $$
  select case when tenant_id = '' then relay.await_key(projection, aggregate_type, aggregate_id)
    else hashtextextended(projection || E'\n' || aggregate_type || E'\n' || aggregate_id || E'\n' || tenant_id, 0) end
$$;

comment on function relay.await_key(text, text, text, text) is
  'The number under which an aggregate of a tenant in a projection is waited for.';
