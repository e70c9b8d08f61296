-- The read model of __name__: each event as one row. Safe to repeat.
create table if not exists __name__ (
  event_id uuid primary key,
  aggregate_type text not null,
  aggregate_id text not null,
  happened text not null,
  happened_at timestamptz not null
);

comment on table __name__ is 'One row for each event; brought up to date by the function __name__.';
comment on column __name__.event_id is 'The event.';
comment on column __name__.aggregate_type is 'What it happened to.';
comment on column __name__.aggregate_id is 'Which one of them.';
comment on column __name__.happened is 'What happened.';
comment on column __name__.happened_at is 'When.';
