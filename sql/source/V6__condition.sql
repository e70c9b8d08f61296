-- What keeps events from flowing, or will, as the running relay sees it: `relay status` prints it.
-- A relay for which all is well has no row.
create table relay.condition (
  slot text not null,
  kind text not null,
  subject text not null,
  severity text not null check (severity in ('blocked', 'partial', 'notice')),
  since timestamptz not null default now(),
  found text not null,
  cure text not null,
  primary key (slot, kind, subject)
);

comment on table relay.condition is 'What keeps events from flowing, or will, as the running relay sees it.';
comment on column relay.condition.slot is 'The slot of the relay that wrote the row.';
comment on column relay.condition.kind is 'A stable name for alarms, such as destination, publication or dead-letters.';
comment on column relay.condition.subject is 'The destination, table or setting concerned; empty where there is only one.';
comment on column relay.condition.severity is 'blocked: no event flows; partial: some events do not flow; notice: all flow, an operator should know.';
comment on column relay.condition.since is 'When the condition began.';
comment on column relay.condition.found is 'What was found, with the cause in the words of the server or the broker.';
comment on column relay.condition.cure is 'What to do.';

drop table relay.destination;
