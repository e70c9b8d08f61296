-- The read model of customer_orders: every order beside its customer. Safe to repeat.
create table if not exists customer_orders (
  order_id text primary key,
  customer_id text not null,
  customer_name text,
  customer_city text,
  currency text not null,
  status text not null check (status in ('created', 'paid', 'shipped', 'cancelled')),
  item_count bigint not null default 0,
  total numeric not null default 0,
  created_at timestamptz not null,
  version bigint not null
);

comment on table customer_orders is 'One row for each order, with its customer''s name and city; brought up to date by the function customer_orders.';
comment on column customer_orders.order_id is 'The order.';
comment on column customer_orders.customer_id is 'Who ordered.';
comment on column customer_orders.customer_name is 'Their name as it is now; null while no event of the customer has come.';
comment on column customer_orders.customer_city is 'Where they live now; null while no event of the customer has come.';
comment on column customer_orders.currency is 'The currency of the total.';
comment on column customer_orders.status is 'How far the order has come.';
comment on column customer_orders.item_count is 'How many items, quantities added up.';
comment on column customer_orders.total is 'What they cost together.';
comment on column customer_orders.created_at is 'When the order was created.';
comment on column customer_orders.version is 'The version of the order that the row shows.';

create index if not exists customer_orders_by_customer on customer_orders (customer_id);

-- What the function knows of the customers. An order that comes first leaves a row without a name:
-- it is the lock on which an order and its customer, worked on by two hosts at once, meet.
create table if not exists customer_orders_customer (
  customer_id text primary key,
  name text,
  city text,
  version bigint not null default 0
);

-- For a table that was made before it had one.
alter table customer_orders_customer add column if not exists version bigint not null default 0;

comment on table customer_orders_customer is 'The customers, for the orders that are still to come.';
comment on column customer_orders_customer.customer_id is 'The customer.';
comment on column customer_orders_customer.name is 'Their name as it is now.';
comment on column customer_orders_customer.city is 'Where they live now.';
comment on column customer_orders_customer.version is 'The version of the customer that the row shows; 0 where none is known.';
