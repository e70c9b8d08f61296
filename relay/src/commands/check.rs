//! `relay check`: each precondition in turn, with the cure for what fails.

use super::{destinations, source};
use envelope::Format;
use relay::config::Config;
use relay::publish::{
    ClaimChecks, Class, Destination, Outcome, Outgoing, Publisher as _, Sealed, classify,
};
use relay::slot::{Finding, Preconditions, Problem};
use uuid::Uuid;

/// The ordering key of the probe.
const PROBE_KEY: &str = "/relay.check/relay.check";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Do not publish the probe that proves the permission to (an event of type relay.check,
    /// which consumers pass over).
    #[arg(long)]
    no_probe: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    let mut well = postgres(config).await?;
    let settings = config.destinations()?.settings;
    for (mut destination, settings) in destinations(config).await?.into_iter().zip(settings) {
        well &= report("destination", &asked(&mut destination).await);
        if !arguments.no_probe {
            well &= report("permission", &probed(&destination, settings.format).await);
            if let Some(claims) = destination.claim_checks() {
                well &= report("claim check", &claimed(claims).await);
            }
        }
    }
    println!("{}", if well { "all is well" } else { "not all is well" });
    Ok(well)
}

async fn postgres(config: &Config) -> anyhow::Result<bool> {
    let dsn = source(config).await?;
    let client = match dsn.connect("relay check").await {
        Ok((client, _driver)) => client,
        Err(error) => {
            let found = dsn::causes(&error);
            return Ok(report(
                "connection",
                &Err(Problem::new(
                    found,
                    "check DATABASE_URL, and that the server runs and lets this machine in",
                )),
            ));
        }
    };
    let wanted = Preconditions {
        client: &client,
        slot: &config.postgres.slot,
        publication: &config.postgres.publication,
    };
    let mut well = report("connection", &Ok(dsn.to_string()));
    well &= report("version", &wanted.version().await);
    well &= report("wal_level", &wanted.wal_level().await);
    well &= report("encoding", &wanted.encoding().await);
    well &= report("role", &wanted.role().await);
    well &= report("outbox", &wanted.outbox().await);
    let secret = match wanted.secret().await {
        Ok(_) => wanted.secret_is_kept().await,
        missing => missing,
    };
    well &= report("messages", &secret);
    let publication = wanted.publication().await;
    let there = publication.is_ok();
    well &= report("publication", &publication);
    if there {
        well &= report("tables", &wanted.published().await);
        well &= report("columns", &wanted.columns().await);
        well &= report("rows", &wanted.row_filter().await);
    }
    for table in config.tables()? {
        well &= report("table", &wanted.table(&table).await);
    }
    well &= report("slot", &wanted.slot().await);
    Ok(well)
}

fn report(name: &str, finding: &Finding) -> bool {
    match finding {
        Ok(found) => println!("ok    {name:<12} {found}"),
        Err(problem) => println!("FAIL  {name:<12} {problem}"),
    }
    finding.is_ok()
}

async fn asked(destination: &mut Destination) -> Finding {
    match destination.learn_limits().await {
        Ok(()) => Ok(format!("{} takes {} bytes", destination.name(), destination.limits().bytes)),
        Err(error) => Err(Problem::new(
            format!("expected {} to answer, found: {error}", destination.address()),
            cure(error.code()),
        )),
    }
}

/// Sends an event that consumers pass over: the only proof of the permission to publish.
async fn probed(destination: &Destination, format: Format) -> Finding {
    let event_id = Uuid::now_v7();
    let timestamp = time::OffsetDateTime::now_utc()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default();
    let envelope = envelope::Envelope {
        event_id,
        event_type: envelope::PROBE_EVENT_TYPE,
        event_version: "1.0",
        timestamp: &timestamp,
        source: "relay",
        aggregate_type: "relay.check",
        aggregate_id: "relay.check",
        key: PROBE_KEY,
        aggregate_version: None,
        tenant_id: None,
        correlation_id: None,
        causation_id: None,
        data: "{}",
        metadata: "{}",
        position: envelope::Position::default(),
    };
    let mut body = String::new();
    envelope.write(format, &mut body);
    let event = Sealed {
        event_id,
        event_type: envelope::PROBE_EVENT_TYPE.to_owned(),
        key: PROBE_KEY.to_owned(),
        body,
        attributes: envelope.attributes(format).map(|a| (a.name, a.value.into_owned())).collect(),
    };
    let outcome = destination.publish(&[&Outgoing::probe(event)]).await;
    match outcome.into_iter().next() {
        Some(Outcome::Accepted) => Ok(format!("a probe was published to {}", destination.name())),
        Some(Outcome::Failed { code, message, .. }) => Err(Problem::new(
            format!("expected {} to take a probe, found: {message} ({code})", destination.name()),
            cure(&code),
        )),
        None => {
            Err(Problem::new("expected an answer to the probe, found none", cure("unreachable")))
        }
    }
}

/// Puts an object that stands for no event: the only proof of the permission to put.
async fn claimed(claims: &ClaimChecks) -> Finding {
    claims.probe().await.map(|object| format!("{object} was put")).map_err(|error| {
        let cure = match error.code() {
            "NoSuchBucket" | "404" => "make the bucket, or correct claim_check.bucket",
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "301" => {
                "take a bucket in the region of publish.to"
            }
            "AccessDenied" | "403" => "give the relay's role s3:PutObject on the bucket's objects",
            _ => "check the network, AWS_REGION and AWS_ENDPOINT_URL, and the credentials",
        };
        Problem::new(format!("expected the bucket to take an object, found: {error}"), cure)
    })
}

fn cure(code: &str) -> &'static str {
    match (code, classify(code, false)) {
        (
            "NotFound"
            | "NotFoundException"
            | "QueueDoesNotExist"
            | "AWS.SimpleQueueService.NonExistentQueue",
            _,
        ) => "make the topic or queue, or correct its address in RELAY_TOPIC_ARN or the route",
        (code, _) if code.starts_with("KMS") || code.starts_with("Kms") => {
            "let the relay's role use the key that encrypts the topic: kms:GenerateDataKey* and kms:Decrypt"
        }
        (_, Class::Destination) => {
            "give the relay's role sns:Publish and sns:GetTopicAttributes on the topic (sqs:SendMessage, sqs:GetQueueAttributes and sqs:GetQueueUrl on a queue), and check its credentials"
        }
        _ => "check the network, AWS_REGION and AWS_ENDPOINT_URL, and the credentials",
    }
}
