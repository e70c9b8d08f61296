-- Destinations that do not take events now, or not all, as the running relay sees them: what `relay status`
-- says of them. A destination that is well has no row.
create table relay.destination (
  slot text not null,
  destination text not null,
  state text not null check (state in ('down', 'wrong', 'halted', 'bucket')),
  since timestamptz not null default now(),
  failures integer not null,
  error_code text,
  error text not null,
  holds_all_back boolean not null,
  primary key (slot, destination)
);

comment on table relay.destination is 'Destinations that do not take events now; one that is well has no row.';
comment on column relay.destination.slot is 'The slot of the relay that says so.';
comment on column relay.destination.destination is 'The topic or queue.';
comment on column relay.destination.state is 'down: it fails; wrong: it is missing or closed to the relay; halted: it refused an event, and on_poison is halt; bucket: what is too large for it cannot be put into the bucket.';
comment on column relay.destination.since is 'When that began.';
comment on column relay.destination.failures is 'How many requests in a row had failed when this was written.';
comment on column relay.destination.error_code is 'The broker''s own code.';
comment on column relay.destination.error is 'The broker''s words.';
comment on column relay.destination.holds_all_back is 'Whether its events fill the budget, so that those of others are not read either.';
