-- What is there before relay init: the relay's role, which will own all of its own, a role without
-- any grants, and the captured table.
create role relay login replication password 'relay';
create role stranger;

create schema kinds;
grant usage on schema kinds to relay;
create type kinds.colour as enum ('red', 'green');

-- Each of its rows is an event.
create table mark (
  id bigint generated always as identity primary key,
  colour kinds.colour not null,
  note text not null
);
alter table mark owner to relay;
