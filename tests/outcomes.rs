//! What each of AWS's codes does to an event, through real HTTP answers.

use anyhow::Result;
use relay::publish::{
    CODES, Class, Destination, Outcome, Outgoing, Publisher as _, Sealed, aws_config, is_throttling,
};
use tests::broker::{Broker, Fault};
use uuid::Uuid;

fn event() -> Outgoing {
    Outgoing::probe(Sealed {
        event_id: Uuid::now_v7(),
        event_type: "order.created".to_owned(),
        key: "o".to_owned(),
        body: "{}".to_owned(),
        attributes: Vec::new(),
    })
}

/// A topic and a queue of one broker.
async fn destinations(broker: &Broker) -> Result<[Destination; 2]> {
    let aws = aws_config(Some("us-east-1")).await.into_builder();
    let keys = aws_credential_types::Credentials::new("AKIATEST", "secret", None, None, "test");
    let keys = aws_credential_types::provider::SharedCredentialsProvider::new(keys);
    let aws = aws.endpoint_url(broker.endpoint()).credentials_provider(keys).build();
    let (topic, queue) = (broker.topic("orders"), broker.queue("orders"));
    Ok([Destination::new(&aws, topic.parse()?), Destination::new(&aws, queue.parse()?)])
}

#[tokio::test]
async fn each_code_has_its_class_for_a_request_and_for_an_entry_of_one() -> Result<()> {
    let broker = Broker::start();
    for destination in destinations(&broker).await? {
        let events = [event(), event()];
        let batch: Vec<&Outgoing> = events.iter().collect();
        for (code, expected) in CODES {
            broker.script([Fault::Refuse(code)]);
            for outcome in destination.publish(&batch).await {
                let Outcome::Failed { class, code: found, whole_request: true, .. } = outcome
                else {
                    panic!("expected the request to fail with {code}, found {outcome:?}")
                };
                assert_eq!((class, found.as_str()), (*expected, *code));
            }
            for sender_fault in [false, true] {
                broker.script([Fault::FailEntries { places: vec![1], code, sender_fault }]);
                let outcomes = destination.publish(&batch).await;
                assert_eq!(outcomes[0], Outcome::Accepted);
                let Outcome::Failed { class, whole_request: false, .. } = outcomes[1] else {
                    panic!("expected the entry to fail with {code}, found {:?}", outcomes[1])
                };
                // Of an entry, a fault that is not the sender's passes; one that is and that the
                // code does not explain is the event's.
                let expected = match (sender_fault, expected) {
                    (false, _) => Class::Retry,
                    (true, Class::Retry) if !is_throttling(code) => Class::Event,
                    (true, class) => *class,
                };
                assert_eq!(class, expected, "{code} with the sender at fault: {sender_fault}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_never_was_answered_is_tried_again() -> Result<()> {
    let broker = Broker::start();
    for destination in destinations(&broker).await? {
        for fault in [Fault::ServerError, Fault::Throttle, Fault::CutBefore, Fault::CutAfter] {
            broker.script([fault.clone()]);
            let outcome = destination.publish(&[&event()]).await.remove(0);
            let retry =
                matches!(outcome, Outcome::Failed { class: Class::Retry, whole_request: true, .. });
            assert!(retry, "{fault:?}: {outcome:?}");
        }
    }
    Ok(())
}
