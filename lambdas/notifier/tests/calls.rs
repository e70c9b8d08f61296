//! How often the receiver is called, whatever happens.

use crate::support::{
    ask_for_replay, called, calls, deliver, event, function, open, paid, read_model,
};
use consumer::Outcome::{Applied, Duplicate, Failed};
use local::receiver::{Behaviour, Receiver};
use serde_json::{Value, json};

#[tokio::test]
async fn each_paid_order_is_told_of_once_however_often_and_in_whatever_order_it_comes() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    let others = [event(1, 1, "order.created"), event(1, 4, "order.shipped")];
    assert_eq!(deliver(&mut function, [paid(2), paid(1)]).await, [Applied; 2]);
    assert_eq!(
        deliver(&mut function, [paid(1), paid(3), paid(1)]).await,
        [Duplicate, Applied, Duplicate]
    );
    deliver(&mut function, others).await;
    assert_eq!(calls(&receiver), [1; 3]);
    let body: Value = serde_json::from_str(&receiver.bodies()[0]).unwrap();
    assert_eq!(body, json!({ "notice": "order_paid", "order_id": "o-2" }));
    assert_eq!(open(&read_model).await, (0, 0));
    assert_eq!(read_model.parked().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn eight_hosts_with_the_same_events_call_once_for_each() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let hosts = (0..8_u32).map(|host| {
        let mut function = function(&read_model, &receiver, false);
        async move {
            for batch in 0..5 {
                // Each from another place on, so that they meet.
                let orders = (0..6).map(|n| (batch * 6 + n + host * 7) % 30);
                let mut left: Vec<_> = orders.map(paid).collect();
                while !left.is_empty() {
                    let outcomes = deliver(&mut function, left.clone()).await;
                    let back = left.into_iter().zip(outcomes).filter(|(_, o)| !o.is_done());
                    left = back.map(|(record, _)| record).collect();
                }
            }
        }
    });
    let hosts: Vec<_> = hosts.map(|host| Box::pin(tokio::spawn(host))).collect();
    for host in hosts {
        host.await.unwrap();
    }
    assert_eq!(calls(&receiver), [1; 30]);
    assert_eq!(open(&read_model).await, (0, 0));
}

#[tokio::test]
async fn what_certainly_did_not_happen_is_called_again_and_its_message_goes_back() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::Answer(503), Behaviour::Answer(429)]);
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Failed]);
    assert_eq!(open(&read_model).await, (1, 0));
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Failed]);
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Duplicate]);
    assert_eq!(calls(&receiver), [3], "two that did nothing, one that did");
    assert_eq!(open(&read_model).await, (0, 0));

    // Nobody listens.
    let target = notifier::Target::new("http://127.0.0.1:1/", None).unwrap();
    let mut lonely = notifier::consumer(&read_model.url().parse().unwrap(), &target.into(), false);
    assert_eq!(deliver(&mut lonely, [paid(2)]).await, [Failed]);
    assert_eq!(deliver(&mut function, [paid(2)]).await, [Duplicate]);
    assert_eq!(calls(&receiver), [1, 3]);
}

#[tokio::test]
async fn a_receiver_that_names_a_time_is_not_called_before_it() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::AnswerLater(429, "600")]);
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Failed]);
    // Its message comes again, and goes back.
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Failed]);
    assert_eq!((calls(&receiver), open(&read_model).await), (vec![1], (1, 0)));
    let sql = "select count(*) from relay.effect
        where due_at > now() + interval '590 s' and not_before > now() + interval '590 s'";
    let row = read_model.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let sql = "update relay.effect set not_before = now()";
    read_model.client.batch_execute(sql).await.unwrap();
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Duplicate]);
    assert_eq!((calls(&receiver), open(&read_model).await), (vec![2], (0, 0)));
}

#[tokio::test]
async fn what_is_due_is_done_by_a_later_delivery_even_if_its_message_is_gone() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::Answer(503)]);
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Failed]);
    // Not at once: it waits a little longer with each try.
    assert_eq!(deliver(&mut function, [paid(2)]).await, [Applied]);
    assert_eq!(open(&read_model).await, (1, 0));
    let sql = "update relay.effect set due_at = now()";
    read_model.client.batch_execute(sql).await.unwrap();
    assert_eq!(deliver(&mut function, []).await, []);
    assert_eq!((open(&read_model).await, calls(&receiver)), ((0, 0), vec![1, 2]));
}

#[tokio::test]
async fn what_nobody_can_say_of_is_parked_and_called_again_only_when_asked_for() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::HangUp, Behaviour::Answer(500)]);
    assert_eq!(deliver(&mut function, [paid(1), paid(2)]).await, [Applied; 2]);
    assert_eq!(deliver(&mut function, [paid(1), paid(2)]).await, [Duplicate; 2]);
    assert_eq!(calls(&receiver), [1; 2]);
    let parked = read_model.parked().await.unwrap();
    assert!(parked[0].contains("answer did not come"), "{parked:?}");
    assert!(parked[1].contains("answered 500"), "{parked:?}");

    ask_for_replay(&read_model).await;
    deliver(&mut function, []).await;
    assert_eq!(calls(&receiver), [2; 2], "with the same keys");
    assert_eq!((open(&read_model).await, read_model.parked().await.unwrap().len()), ((0, 0), 0));
}

#[tokio::test]
async fn what_the_receiver_refuses_for_good_is_parked_with_its_answer() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::Answer(422)]);
    assert_eq!(deliver(&mut function, [paid(1), paid(2)]).await, [Applied; 2]);
    assert_eq!(read_model.parked().await.unwrap(), ["the receiver answered 422"]);
    assert_eq!(calls(&receiver), [1; 2]);
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_of_a_call_leaves_a_question_and_not_a_second_call() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    receiver.then([Behaviour::Silence]);
    let mut dying = function(&read_model, &receiver, false);
    let delivery = tokio::spawn(async move { deliver(&mut dying, [paid(1)]).await });
    called(&receiver, 1).await;
    delivery.abort();
    assert!(delivery.await.unwrap_err().is_cancelled());
    assert_eq!(open(&read_model).await, (0, 1), "begun, and never ended");

    // The message comes again while the call may be on its way still: it goes back.
    let mut next = function(&read_model, &receiver, false);
    assert_eq!(deliver(&mut next, [paid(1)]).await, [Failed]);
    assert_eq!(calls(&receiver), [1]);
    // Later nobody can be at it any more.
    let sql = "update relay.effect set begun_at = begun_at - interval '61 seconds'";
    read_model.client.batch_execute(sql).await.unwrap();
    assert_eq!(deliver(&mut next, [paid(1)]).await, [Duplicate]);
    assert_eq!(calls(&receiver), [1]);
    let parked = read_model.parked().await.unwrap();
    assert!(parked[0].contains("its host is gone"), "{parked:?}");
}

#[tokio::test]
async fn a_receiver_that_knows_repeats_is_called_until_it_answers() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    receiver.then([Behaviour::HangUp, Behaviour::Silence]);
    let mut dying = function(&read_model, &receiver, true);
    assert_eq!(deliver(&mut dying, [paid(1)]).await, [Failed]);
    let delivery = tokio::spawn(async move { deliver(&mut dying, [paid(1)]).await });
    called(&receiver, 2).await;
    delivery.abort();
    let _ = delivery.await;
    let sql = "update relay.effect set begun_at = begun_at - interval '61 seconds'";
    read_model.client.batch_execute(sql).await.unwrap();
    let mut function = function(&read_model, &receiver, true);
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Duplicate]);
    assert_eq!(calls(&receiver), [3], "under one key");
    assert_eq!(read_model.parked().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_end_of_a_call_is_noted_though_the_connection_broke_meanwhile() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    receiver.then([Behaviour::Silence]);
    let mut function = function(&read_model, &receiver, false);
    let delivery = tokio::spawn(async move { deliver(&mut function, [paid(1), paid(2)]).await });
    called(&receiver, 1).await;
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'notifier'";
    assert_eq!(read_model.client.query(sql, &[]).await.unwrap().len(), 1);
    // It runs into its limit, is parked, and the second one follows.
    assert_eq!(delivery.await.unwrap(), [Applied; 2]);
    assert_eq!((calls(&receiver), open(&read_model).await), (vec![1; 2], (0, 0)));
    let parked = read_model.parked().await.unwrap();
    assert!(parked.len() == 1 && parked[0].contains("within 10s"), "{parked:?}");
}

#[tokio::test]
async fn a_connection_that_was_accepted_and_closed_is_a_question_though_no_call_came() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    receiver.then([Behaviour::Refuse]);
    // It was accepted, so bytes may have gone out: on the safe side, nobody can say.
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Applied]);
    assert_eq!((calls(&receiver).len(), read_model.parked().await.unwrap().len()), (0, 1));
}

#[tokio::test]
async fn without_time_left_no_call_begins() {
    let (read_model, receiver) = (read_model().await, Receiver::start().await.unwrap());
    let mut function = function(&read_model, &receiver, false);
    let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(8);
    let report = function.deliver_until(vec![paid(1)], Some(soon)).await.unwrap();
    assert_eq!(report.outcomes[0].1, Failed);
    assert_eq!((calls(&receiver).len(), open(&read_model).await), (0, (1, 0)));
    assert_eq!(deliver(&mut function, [paid(1)]).await, [Duplicate]);
    assert_eq!(calls(&receiver), [1]);
}
