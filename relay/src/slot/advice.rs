//! What a running relay can do without, and an operator must know: tried at the start, and again
//! until it is mended.

use super::{Finding, Preconditions};
use crate::condition::{Condition, Conditions};
use dsn::Dsn;
use std::time::Duration;

/// How often what failed is tried again.
const EVERY: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The source database.
    pub dsn: Dsn,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Whether heartbeats are written.
    pub heartbeat: bool,
}

/// Tries until all holds, and sets a condition for each thing that does not.
pub async fn run(subject: Subject, conditions: Conditions) {
    loop {
        // That Postgres cannot be reached is said by the stream itself.
        if let Ok((client, driver)) = subject.dsn.connect("relay advice").await {
            let well = look(&client, &subject, &conditions).await;
            drop(client);
            driver.abort();
            if well {
                return;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(client: &tokio_postgres::Client, subject: &Subject, conditions: &Conditions) -> bool {
    let wanted = Preconditions { client, slot: &subject.slot, publication: &subject.publication };
    let writes = wanted.writes(subject.heartbeat).await;
    let identities = wanted.identities().await;
    let mut well = tell(conditions, "write", &writes, Condition::partial);
    well &= tell(conditions, "replica-identity", &identities, Condition::notice);
    well
}

fn tell(
    conditions: &Conditions,
    kind: &'static str,
    finding: &Finding,
    severity: impl Fn(String, String) -> Condition,
) -> bool {
    match finding {
        Ok(_) => conditions.clear(kind, ""),
        // Lost on the way: it says nothing of the privilege.
        Err(problem) if problem.passing == super::Passing::ByItself => {}
        Err(problem) => {
            conditions.set(kind, "", severity(problem.found.clone(), problem.cure.clone()));
        }
    }
    finding.is_ok()
}
