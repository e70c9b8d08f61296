-- An effect that its receiver has put off.
--
-- The message of an event whose effect is not over comes again, and has it begun at once, whatever
-- due_at says. A receiver that names a time (Retry-After) is not called before it.

alter table relay.effect add column not_before timestamptz;

comment on column relay.effect.not_before is 'The receiver asked not to be called before this; null where it named no time.';
