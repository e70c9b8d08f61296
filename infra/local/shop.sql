-- The demo's shop: what an application that uses the outbox looks like.
create table orders (
  order_id text primary key,
  customer_id text not null,
  currency text not null,
  status text not null default 'created',
  version bigint not null,
  created_at timestamptz not null default now(),
  paid_at timestamptz,
  shipped_at timestamptz,
  cancelled_at timestamptz
);

create table customers (
  customer_id text primary key,
  first_name text not null,
  last_name text not null,
  city text not null,
  version bigint not null
);

create table order_item (
  order_id text not null references orders,
  sku text not null,
  quantity bigint not null,
  unit_price numeric(12, 2) not null
);

create index on order_item (order_id);

-- Events of transactions that were rolled back, noted afterwards: none may ever arrive.
create table rolled_back (
  event_id uuid primary key
);
