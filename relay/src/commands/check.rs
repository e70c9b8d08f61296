//! `relay check`: each precondition in turn, with the cure for what fails.

use super::{destinations, source};
use crate::out::{self, out};
use envelope::Format;
use relay::config::Config;
use relay::publish::{
    ClaimChecks, Class, Destination, Outcome, Outgoing, Publisher as _, Sealed, classify,
};
use relay::slot::{Finding, Preconditions, Problem, SlotState, readable, session};
use uuid::Uuid;

/// The ordering key of the probe.
const PROBE_KEY: &str = "/relay.check/relay.check";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
  relay check\n  \
  relay check --probe\n  \
  relay check --json | jq 'select(.well == false)'\n\n\
Exit codes: 0 all is well, 1 it is not, 2 wrong arguments or configuration.")]
pub(crate) struct Arguments {
    /// Publish one event of type relay.check to each destination, which consumers pass over: the
    /// only proof of the permission to publish.
    #[arg(long)]
    probe: bool,
    /// A JSON object a line: each finding, and at the end whether all is well.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<bool> {
    out::set_json(arguments.json);
    // The whole configuration before anyone is asked.
    let settings = config.destinations()?.settings;
    config.tables()?;
    let destinations = destinations(config).await?;
    let mut well = postgres(config).await?;
    for (destination, settings) in destinations.into_iter().zip(settings) {
        well &= report("destination", &asked(&destination).await);
        if arguments.probe {
            well &= report("permission", &probed(&destination, settings.format).await);
        } else {
            note(
                "permission",
                &format!(
                    "to publish to {}: not tried; --probe publishes one event of type {} to it",
                    destination.name(),
                    envelope::PROBE_EVENT_TYPE
                ),
                None,
            );
        }
        if let Some(claims) = destination.claim_checks() {
            well &= report("claim check", &claimed(claims).await);
        }
    }
    if out::is_json() {
        out::json(&serde_json::json!({ "well": well }))?;
    } else {
        out!("{}", if well { "all is well" } else { "not all is well" });
    }
    Ok(well)
}

async fn postgres(config: &Config) -> anyhow::Result<bool> {
    let tables = config.tables()?;
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
    // Behind a pooler the questions below would have answers that mean nothing.
    let opened = session(&dsn).await;
    let has_session = opened.is_ok();
    well &= report("session", &opened);
    well &= report("version", &wanted.version().await);
    well &= report("wal_level", &wanted.wal_level().await);
    well &= report("encoding", &wanted.encoding().await);
    well &= report("role", &wanted.role().await);
    well &= report("server", &wanted.writable().await);
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
        for table in &tables {
            well &= report("table", &wanted.table(table).await);
        }
        well &= report("identities", &wanted.identities().await);
    }
    for table in &tables {
        if let Err(problem) = wanted.types(table).await {
            well &= report("types", &Err(problem));
        }
    }
    well &= report("writes", &wanted.writes(config.postgres.heartbeat.is_some()).await);
    let slot = wanted.slot().await;
    let mut may_read = has_session && there && slot.is_ok();
    well &= report("slot", &slot);
    if config.postgres.failover {
        well &= report("failover", &wanted.failover(true).await);
    }
    let state = SlotState::read(&client, wanted.slot).await.unwrap_or_default();
    may_read &= state.is_some();
    if let (true, Some(state)) = (may_read, state) {
        well &= report("log", &readable(&dsn, &state, wanted.slot, wanted.publication).await);
    }
    for note in wanted.notes().await {
        self::note("later", &note.found, Some(&note.cure));
    }
    Ok(well)
}

/// A finding that is neither well nor wrong.
fn note(name: &str, found: &str, cure: Option<&str>) {
    if out::is_json() {
        let line = serde_json::json!({ "check": name, "note": found, "cure": cure });
        out::json_line(&line.to_string());
        return;
    }
    out!("note  {name:<12} {found}");
    if let Some(cure) = cure {
        out!("  cure: {cure}");
    }
}

fn report(name: &str, finding: &Finding) -> bool {
    match finding {
        finding if out::is_json() => {
            let (well, found, cure) = match finding {
                Ok(found) => (true, found, None),
                Err(problem) => (false, &problem.found, Some(&problem.cure)),
            };
            let line =
                serde_json::json!({ "check": name, "well": well, "found": found, "cure": cure });
            out::json_line(&line.to_string());
        }
        Ok(found) => out!("ok    {name:<12} {found}"),
        Err(problem) => {
            out!("FAIL  {name:<12} {}", problem.found);
            out!("  cure: {}", problem.cure);
        }
    }
    finding.is_ok()
}

async fn asked(destination: &Destination) -> Finding {
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
        // Told apart from an event in a format that sends nothing else, too.
        data: r#"{"relay.check":"a probe of the permission to publish; pass over it"}"#,
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
