-- Effects outside the database that events ask for: due, or begun and not known to be over.
--
-- A row stands here from the transaction of its event until the effect is done. One that will not
-- be done, or of which nobody can say whether it was, goes to relay.parked.

create table relay.effect (
  projection text not null,
  event_id uuid not null,
  place bigint generated always as identity,
  event_type text not null,
  aggregate_type text not null,
  aggregate_id text not null,
  request text not null,
  body text not null,
  due_at timestamptz not null default now(),
  tries integer not null default 0,
  begun_at timestamptz,
  primary key (projection, event_id)
);

create index effect_in_order on relay.effect (projection, aggregate_type, aggregate_id, place);

comment on table relay.effect is 'Effects outside the database that are due, or begun and not known to be over.';
comment on column relay.effect.projection is 'The function.';
comment on column relay.effect.event_id is 'The event that asks for it; the key by which the receiver can tell a repeat.';
comment on column relay.effect.place is 'The order in which effects of one aggregate are begun.';
comment on column relay.effect.event_type is 'What happened.';
comment on column relay.effect.aggregate_type is 'The kind of thing it happened to.';
comment on column relay.effect.aggregate_id is 'Which one.';
comment on column relay.effect.request is 'What the function noted for it, as JSON.';
comment on column relay.effect.body is 'The message as it came, for relay.parked.';
comment on column relay.effect.due_at is 'Not before this.';
comment on column relay.effect.tries is 'How often it was begun.';
comment on column relay.effect.begun_at is 'When it was begun; null while it is due. Committed before the call.';
