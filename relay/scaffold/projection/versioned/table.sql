-- The read model of __name__: how far each aggregate has come, as one row. Safe to repeat.
create table if not exists __name__ (
  aggregate_type text not null,
  aggregate_id text not null,
  status text not null,
  events bigint not null,
  changed_at timestamptz not null,
  version bigint,
  primary key (aggregate_type, aggregate_id)
);

comment on table __name__ is 'One row for each aggregate; brought up to date by the function __name__.';
comment on column __name__.aggregate_type is 'What it is.';
comment on column __name__.aggregate_id is 'Which one.';
comment on column __name__.status is 'What happened last.';
comment on column __name__.events is 'How many events have brought it there.';
comment on column __name__.changed_at is 'When the last one happened.';
comment on column __name__.version is 'The version of the aggregate that the row shows.';
