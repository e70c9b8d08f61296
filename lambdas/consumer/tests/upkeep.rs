//! The inbox's partitions: made ahead, dropped behind, and nothing forgotten is taken for new.

use crate::support::{ReadModel, deliver, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Duplicate, Parked};

/// Gives the inbox a partition of a day long past.
async fn past(read_model: &ReadModel) {
    let sql = "create table relay.inbox_20260115 partition of relay.inbox
        for values from ('2026-01-15') to ('2026-01-16')";
    read_model.client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn coming_days_have_partitions_and_a_second_run_does_nothing() {
    let read_model = ReadModel::start().await;
    assert_eq!(read_model.count("pg_inherits where inhparent = 'relay.inbox'::regclass").await, 10);
    assert_eq!(read_model.count("relay.maintain_inbox()").await, 0);
    for _ in 0..3 {
        assert_eq!(read_model.count("relay.maintain_inbox(10) where step = 'create'").await, 1);
    }
    assert_eq!(read_model.count("relay.maintain_inbox(10)").await, 0);
}

#[tokio::test]
async fn a_partition_without_an_upper_end_is_never_done_with() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    consumer.connect().await.unwrap();
    let sql = "do $$ declare leaf regclass; begin
          for leaf in select c.oid from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
            where i.inhparent = 'relay.inbox'::regclass and c.relname ~ '^inbox_[0-9]{8}$'
          loop execute format('drop table %s', leaf); end loop;
        end $$;
        create table relay.inbox_20200101 partition of relay.inbox
        for values from ('2020-01-01') to (maxvalue)";
    read_model.client.batch_execute(sql).await.unwrap();
    let event_id = "019bc0e9-a000-7000-8000-000000000001".to_owned();
    let event = crate::support::Sent { event_id, ..sent("a", 1) };
    assert_eq!(deliver(&mut consumer, [&event]).await, [Applied]);
    assert_eq!(read_model.count("relay.maintain_inbox()").await, 0);
    assert_eq!(read_model.count("relay.inbox_20200101").await, 1);
}

#[tokio::test]
async fn two_that_maintain_at_once_do_not_get_in_each_others_way() {
    let mut read_model = ReadModel::start().await;
    let mut other = read_model.postgres.connect(&read_model.database).await.unwrap();
    let first = other.transaction().await.unwrap();
    let made = first.query("select relay.maintain_inbox(12)", &[]).await.unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(read_model.count("relay.maintain_inbox(20)").await, 0, "the other is at it");
    first.commit().await.unwrap();
    assert_eq!(read_model.count("relay.maintain_inbox(20)").await, 1);
    read_model.postgres.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_of_a_forgotten_day_is_parked_unless_its_version_tells() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    // Connects, and sees to the partitions: the past one is made after that.
    consumer.connect().await.unwrap();
    past(&read_model).await;
    // Version 7 of 2026-01-15: the day of the id is that of the partition.
    let of_that_day = |n: u8, event: crate::support::Sent| crate::support::Sent {
        event_id: format!("019bc0e9-a000-7000-8000-00000000000{n}"),
        ..event
    };
    let plain = of_that_day(1, sent("a", 1).unversioned());
    let versioned = of_that_day(2, sent("b", 1));
    assert_eq!(deliver(&mut consumer, [&plain, &versioned]).await, [Applied; 2]);
    assert_eq!(read_model.count("relay.maintain_inbox() where step = 'empty'").await, 1);
    assert_eq!(read_model.count("relay.maintain_inbox() where step = 'drop'").await, 1);
    assert_eq!(read_model.count("relay.inbox where aggregate_id <> 'c'").await, 0);

    // Redelivered after its day was dropped, the one without a version could be new or old.
    let batch = [&plain, &versioned, &sent("b", 2)];
    assert_eq!(deliver(&mut consumer, batch).await, [Parked, Duplicate, Applied]);
    assert_eq!(deliver(&mut consumer, batch).await, [Duplicate; 3]);
    assert_eq!(read_model.effects().await["a"], [0]);
    let reason = read_model.client.query_one("select reason from relay.parked", &[]).await.unwrap();
    assert!(reason.get::<_, String>(0).contains("2026-01-15"));
}

#[tokio::test]
async fn late_events_in_the_default_partition_are_forgotten_by_when_they_came() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Once);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    assert_eq!(read_model.count("relay.inbox_other_ids").await, 1);
    // Months after its day, but only just applied: its redelivery is still to be known.
    assert_eq!(read_model.count("relay.maintain_inbox()").await, 0);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Duplicate]);
    let age = "update relay.inbox set processed_at = now() - interval '31 days'";
    read_model.client.batch_execute(age).await.unwrap();
    assert_eq!(read_model.count("relay.maintain_inbox()").await, 1);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Parked]);
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    let read_model = ReadModel::start().await;
    let sql = "select c.relname || coalesce('.' || a.attname, '')
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'relay'
        left join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind in ('r', 'p') and not c.relispartition
          and (col_description(c.oid, a.attnum) is null or obj_description(c.oid) is null)";
    let rows = read_model.client.query(sql, &[]).await.unwrap();
    let bare: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(bare.is_empty(), "{bare:?}");
}
