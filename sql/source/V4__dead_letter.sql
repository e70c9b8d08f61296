-- Events that can never be sent, with the reason: nothing committed is lost.
create table relay.dead_letter (
  id bigint generated always as identity primary key,
  event_id uuid,
  destination text not null,
  key text not null,
  event_type text not null,
  reason text not null,
  error_code text,
  attempts integer not null,
  position text not null,
  body text not null,
  attributes jsonb not null default '{}',
  first_failed_at timestamptz not null default now()
);

-- A second record of the same event after a crash is a no-op. One change can be two events.
create unique index dead_letter_once on relay.dead_letter (
  destination, position, coalesce(event_id, '00000000-0000-0000-0000-000000000000')
);

comment on table relay.dead_letter is 'Events that can never be sent to their destination, kept with the reason.';
comment on column relay.dead_letter.event_id is 'The event''s identity; null where the row had none that could be read.';
comment on column relay.dead_letter.destination is 'The topic or queue it was meant for.';
comment on column relay.dead_letter.key is 'The ordering key.';
comment on column relay.dead_letter.event_type is 'What happened.';
comment on column relay.dead_letter.reason is 'Why it cannot be sent, and what to do.';
comment on column relay.dead_letter.error_code is 'The broker''s own code, when the broker refused it.';
comment on column relay.dead_letter.attempts is 'How often it was sent.';
comment on column relay.dead_letter.position is 'Its place in the stream; makes a second record of the same event a no-op.';
comment on column relay.dead_letter.body is 'The body as it would have been sent, or the row as it was read.';
comment on column relay.dead_letter.attributes is 'The message attributes as they would have been sent.';
comment on column relay.dead_letter.first_failed_at is 'When it was set aside.';

-- Back into the stream: the letters go, and what they held comes to the relay again by the log,
-- in one transaction, so that it is in the one or in the other at any moment.
create function relay.redrive(letters bigint[]) returns bigint
language plpgsql
as $$
declare
  letter relay.dead_letter;
  redriven bigint := 0;
begin
  for letter in
    -- What has no id was no event; what has no body was too large to be kept.
    select d.* from relay.dead_letter d
    where d.id = any (letters) and d.event_id is not null and d.body <> ''
    order by d.position, d.id
    for update
  loop
    delete from relay.dead_letter d where d.id = letter.id;
    perform pg_logical_emit_message(true, 'relay.redrive', json_build_object(
      'event_id', letter.event_id, 'destination', letter.destination, 'key', letter.key,
      'event_type', letter.event_type, 'body', letter.body, 'attributes', letter.attributes
    )::text);
    redriven := redriven + 1;
  end loop;
  return redriven;
end
$$;

comment on function relay.redrive(bigint[]) is 'Sends these dead letters again, with their ids, after what was committed until now; returns how many.';
