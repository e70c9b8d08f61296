//! The session with Postgres: made, lost, made again, reported to, ended.

use super::{Pipeline, PipelineError, Report};
use crate::condition::record;
use crate::publish::{Publisher, backoff};
use crate::slot::Passing;
use crate::source::{Connected, Source, SourceError, SourceEvent};
use crate::wire::WireError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl<P: Publisher> Pipeline<P> {
    pub(super) fn source_event(&mut self, event: SourceEvent) -> Result<(), PipelineError> {
        match event {
            SourceEvent::Connected(Ok(connected)) => self.connected(*connected),
            SourceEvent::Connected(Err(error)) => self.not_connected(error),
            SourceEvent::TryAgain => {
                self.source = Source::connect(self.slot.clone());
                Ok(())
            }
            SourceEvent::Filled(Ok(())) => Ok(()),
            SourceEvent::Filled(Err(error)) => self.lost(error),
        }
    }

    fn connected(&mut self, connected: Connected) -> Result<(), PipelineError> {
        let confirmed = self.intake.ledger().flush_lsn();
        let found = &connected.identity;
        if let Some(known) = &self.identity
            && (known.system_id != found.system_id || found.log_end < confirmed)
        {
            return Err(PipelineError::AnotherHistory {
                expected: known.system_id.clone(),
                confirmed,
                found: format!("{} with log up to {}", found.system_id, found.log_end),
            });
        }
        if self.identity.is_some() && connected.confirmed > confirmed {
            return Err(PipelineError::SlotMoved {
                slot: self.slot.name.clone(),
                confirmed,
                found: connected.confirmed,
            });
        }
        tracing::info!(
            slot = self.slot.name, publication = self.slot.publication, server = %self.slot.dsn,
            timeline = found.timeline, confirmed = %confirmed, "streaming"
        );
        let origin = format!("{}/{}", found.system_id, self.slot.dsn.database());
        self.intake.reconnected(origin, connected.epoch, connected.primary_keys, connected.secrets);
        if self.recorder.is_none() {
            let (dsn, slot) = (self.slot.dsn.clone(), self.slot.name.clone());
            self.recorder = Some(tokio::spawn(record(self.conditions.clone(), dsn, slot)));
        }
        self.identity = Some(connected.identity);
        self.status_interval = connected.status_interval;
        self.connect_attempts = 0;
        self.source = Source::Streaming(connected.session);
        Ok(())
    }

    fn not_connected(&mut self, error: SourceError) -> Result<(), PipelineError> {
        // A password that was right once is being changed: wait for the new one.
        let was_right = self.identity.is_some()
            && matches!(&error, SourceError::Ask(asked) if asked.is_login());
        let passes = self.identity.is_some()
            && matches!(&error, SourceError::Problem(p) if p.passing == Passing::Mended);
        if !error.is_transient() && !was_right && !passes {
            return Err(PipelineError::Source(error));
        }
        let in_use = matches!(&error, SourceError::Wire(WireError::SlotInUse { .. }));
        if in_use {
            if self.connect_attempts == 0 {
                tracing::warn!(
                    error = dsn::causes(&error),
                    "standing by: another relay reads from the slot; taking over when it is free"
                );
            }
        } else if passes {
            tracing::error!(
                error = dsn::causes(&error),
                "no session: events wait in Postgres until this is mended; trying again"
            );
        } else {
            tracing::warn!(
                error = dsn::causes(&error),
                attempt = self.connect_attempts + 1,
                "no connection to Postgres; trying again"
            );
        }
        // A standby asks every 200 to 400 ms, to take over within two seconds with all that a
        // session needs; a server that is down gets time.
        let attempt = if in_use { 3 } else { self.connect_attempts.min(7) };
        self.source = Source::wait(backoff(attempt, 0.5 + fastrand::f64() / 2.0));
        self.connect_attempts += 1;
        Ok(())
    }

    pub(super) fn lost(&mut self, error: WireError) -> Result<(), PipelineError> {
        if let WireError::Protocol(_) | WireError::Unexpected { .. } = error {
            return Err(PipelineError::Source(error.into()));
        }
        tracing::warn!(
            error = dsn::causes(&error),
            "the connection to Postgres is lost; connecting again"
        );
        self.source = Source::wait(backoff(1, fastrand::f64()));
        Ok(())
    }

    /// Reports the flush position when it is time to.
    pub(super) async fn send_status(&mut self, now: bool) {
        if !now && self.reported_at.elapsed() < self.status_interval {
            return;
        }
        self.reported_at = Instant::now();
        let ledger = self.intake.ledger();
        let (received, flushed) = (ledger.received_lsn(), ledger.flush_lsn());
        if let Some(time) = ledger.flushed_commit_time() {
            self.confirmed_time.store(time, Ordering::Relaxed);
        }
        self.measure();
        let Source::Streaming(session) = &mut self.source else {
            return;
        };
        if let Err(error) = session.send_status(received, flushed).await {
            let _ = self.lost(error);
            return;
        }
        if flushed > self.reported {
            let (published, on_their_way) = (self.report.published, self.schedule.len());
            tracing::debug!(confirmed = %flushed, published, on_their_way, "confirmed");
            self.reported = flushed;
        }
    }

    /// Confirms the last position and says goodbye, so that nothing settled is sent again.
    pub(super) async fn finish(mut self) -> Report {
        const LIMIT: Duration = Duration::from_secs(5);
        if let Some(recorder) = &self.recorder {
            recorder.abort();
        }
        self.send_status(true).await;
        self.report.confirmed = self.intake.ledger().flush_lsn();
        self.report.unfinished = self.schedule.len() + self.dead_letters_in_flight;
        if let Source::Streaming(session) = self.source {
            match tokio::time::timeout(LIMIT, session.finish()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = dsn::causes(&error),
                        "the last position may not be confirmed; some events may be sent again"
                    );
                }
                Err(_) => tracing::warn!(
                    "the server did not end the stream in time; some events may be sent again"
                ),
            }
        }
        self.report
    }
}
