-- An aggregate's progress is moved by one statement, whether it has a row or not.
--
-- The row says from where it was moved: a statement that proposes one for an aggregate that has a
-- row already finds there whether it is the move that the consumer meant.

alter table relay.progress add column moved_from bigint not null default 0;

comment on column relay.progress.moved_from is 'The version before it was moved last; 0 where it was new.';

-- A row is updated with every event of its aggregate: with room beside it on its page, its index
-- need not be touched.
alter table relay.progress set (fillfactor = 70);
