-- Every kind of message that pgoutput can send, in transactions as small as can be.
-- The slots are made before the changes, so that each of them sees all of these.
-- psql's variable major is the server's version.

create type mood as enum ('calm', 'cross');
create domain short_text as text check (length(value) < 100);
create table item (
  id bigint primary key,
  name text,
  amount numeric,
  feeling mood,
  note short_text,
  raw bytea,
  at timestamptz,
  tags text[]
);
create table whole (id int primary key, body text);
alter table whole replica identity full;
create table by_index (id int, code text not null, constraint by_code unique (code));
alter table by_index replica identity using index by_code;
create table silent (id int);
alter table silent replica identity nothing;
create table large (id int primary key, hits int, body text);
alter table large alter column body set storage external;
create table daily (day date not null, id int not null, primary key (day, id)) partition by range (day);
create table daily_1 partition of daily for values from ('2026-01-01') to ('2026-01-02');
create table child (id int references item (id), primary key (id));
create table product (id int primary key, price numeric, twice numeric generated always as (price * 2) stored);
create publication captured for all tables with (publish_via_partition_root = true);
select :major >= 18 as sends_generated \gset
\if :sends_generated
  alter publication captured set (publish_generated_columns = stored);
\endif

select pg_create_logical_replication_slot('text', 'pgoutput');
select pg_create_logical_replication_slot('binary', 'pgoutput');
select pg_create_logical_replication_slot('streamed', 'pgoutput');
select pg_create_logical_replication_slot('prepared', 'pgoutput', false, true);
select pg_create_logical_replication_slot('parallel', 'pgoutput', false, true);

-- Values: null, empty, text in several scripts, bytes, arrays; then each kind of change.
insert into item values
  (1, 'caf' || chr(233) || ' ' || chr(26085) || ' ' || chr(128512), 12.50, 'calm', '', '\x00ff', '2026-01-15 10:30:00+00', '{a,NULL,"b,c"}'),
  (2, null, 'NaN', null, null, null, 'infinity', null);
update item set amount = 13 where id = 1;
update item set id = 3 where id = 2;
delete from item where id = 3;

insert into whole values (1, 'before');
update whole set body = 'after';
delete from whole;

insert into by_index values (1, 'one');
update by_index set code = 'two';
delete from by_index;

insert into silent values (1);

-- A column that is computed from others; sent from version 18 on, where the publication says so.
insert into product values (1, 12.5);

-- A value out of line that an update leaves alone is not sent again.
insert into large select 1, 0, string_agg(md5(i::text), '') from generate_series(1, 100) as i;
update large set hits = 1;

insert into daily values ('2026-01-01', 1);

truncate daily_1, whole;
truncate item cascade;
truncate by_index restart identity;

-- Messages, in a transaction and outside of one.
select pg_logical_emit_message(true, 'relay', '{"n": 1}');
select pg_logical_emit_message(false, 'relay', '');

-- A table changes between two rows.
begin;
insert into whole values (2, 'narrow');
alter table whole add column extra int default 7;
insert into whole values (3, 'wide', 8);
commit;

-- A transaction that came from another server.
select pg_replication_origin_create('elsewhere');
select pg_replication_origin_session_setup('elsewhere');
begin;
select pg_replication_origin_xact_setup('0/ABCDEF', '2026-01-15 10:30:00+00');
insert into silent values (2);
commit;
begin;
select pg_replication_origin_xact_setup('0/ABCDFF', '2026-01-15 10:30:00+00');
insert into silent select generate_series(1, 600);
commit;
select pg_replication_origin_session_reset();

-- Long enough to be streamed while open: committed, with a part rolled back; rolled back.
begin;
insert into silent select generate_series(1, 300);
savepoint half;
insert into whole select i, 'gone', 0 from generate_series(1000, 1600) as i;
rollback to half;
select pg_logical_emit_message(true, 'relay', 'streamed');
truncate silent;
insert into silent select generate_series(1, 300);
commit;
begin;
insert into silent select generate_series(1, 600);
rollback;

-- In two phases: committed, rolled back, and one long enough to be streamed.
begin;
insert into silent values (3);
prepare transaction 'kept';
commit prepared 'kept';
begin;
insert into silent values (4);
prepare transaction 'dropped';
rollback prepared 'dropped';
begin;
insert into silent select generate_series(1, 600);
prepare transaction 'long';
commit prepared 'long';
