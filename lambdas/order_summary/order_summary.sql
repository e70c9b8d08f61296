-- The read model of order_summary: the life of an order, as one row. Safe to repeat.
create table if not exists order_summary (
  order_id text primary key,
  customer_id text not null,
  currency text not null,
  status text not null check (status in ('created', 'paid', 'shipped', 'cancelled')),
  item_count bigint not null default 0,
  total numeric not null default 0,
  created_at timestamptz not null,
  paid_at timestamptz,
  shipped_at timestamptz,
  cancelled_at timestamptz,
  version bigint not null
);

comment on table order_summary is 'One row for each order, brought up to date by the function order_summary.';
comment on column order_summary.order_id is 'The order.';
comment on column order_summary.customer_id is 'Who ordered.';
comment on column order_summary.currency is 'The currency of the total.';
comment on column order_summary.status is 'How far it has come.';
comment on column order_summary.item_count is 'How many items, quantities added up.';
comment on column order_summary.total is 'What they cost together.';
comment on column order_summary.created_at is 'When it was created.';
comment on column order_summary.paid_at is 'When it was paid.';
comment on column order_summary.shipped_at is 'When it was shipped.';
comment on column order_summary.cancelled_at is 'When it was cancelled.';
comment on column order_summary.version is 'The version of the order that the row shows.';

create index if not exists order_summary_by_customer on order_summary (customer_id);
