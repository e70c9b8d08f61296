-- Who waits is notified by the consumer, not by triggers.
--
-- The consumer sees in the statement that records its events whether anyone waits at all. Triggers
-- looked after each statement, up to four times for a batch, and kept its rows for that: a tenth
-- of what a batch of ten cost.

drop trigger notify_inserted on relay.progress;
drop trigger notify_updated on relay.progress;
drop trigger notify_inserted on relay.inbox;
drop function relay.notify_version();
drop function relay.notify_event();
