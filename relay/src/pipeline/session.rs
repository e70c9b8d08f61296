//! The session with Postgres: made, lost, made again, reported to, ended.

use super::{Pipeline, PipelineError, Report};
use crate::condition::{Condition, record};
use crate::publish::{Publisher, backoff};
use crate::slot::Passing;
use crate::slot::watch::Watch;
use crate::source::{Connected, Source, SourceError, SourceEvent};
use crate::wire::{WireError, is_passing};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The kind of the condition that there is no session, or none that gives anything.
const SESSION: &str = "session";

/// What a server before 18 says of a publication that was not there when a change was written.
const UNDEFINED_OBJECT: &str = "42704";

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
            timeline = found.timeline, confirmed = %confirmed.max(connected.confirmed), "streaming"
        );
        let origin = format!("{}/{}", found.system_id, self.slot.dsn.database());
        self.intake.reconnected(origin, connected.epoch, connected.primary_keys, connected.secrets);
        if self.watch.is_none() {
            let (slot, conditions) = (self.slot.clone(), self.conditions.clone());
            let watch = Watch::new(slot, conditions, &self.server, connected.oids.clone());
            self.watch = Some(tokio::spawn(watch.run()));
        }
        self.intake.knows(connected.oids);
        if self.recorder.is_none() {
            let (dsn, slot) = (self.slot.dsn.clone(), self.slot.name.clone());
            self.recorder = Some(tokio::spawn(record(self.conditions.clone(), dsn, slot)));
        }
        self.report.confirmed = self.report.confirmed.max(connected.confirmed);
        self.identity = Some(connected.identity);
        self.status_interval = connected.status_interval;
        self.in_use = false;
        self.connected_at = Instant::now();
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
            if !std::mem::replace(&mut self.in_use, true) {
                tracing::warn!(
                    error = dsn::causes(&error),
                    "standing by: another relay reads from the slot; taking over when it is free"
                );
            }
            // A standby asks every 200 to 400 ms, to take over within two seconds with all that a
            // session needs. It waits for its turn: nothing has failed.
            self.source = Source::wait(backoff(3, 0.5 + fastrand::f64() / 2.0));
            return Ok(());
        }
        if let SourceError::Problem(problem) = &error {
            let condition = Condition::blocked(
                format!("no session with Postgres: {}", problem.found),
                problem.cure.clone(),
            );
            self.conditions.set_silently(SESSION, "", condition);
        }
        if passes {
            tracing::error!(
                error = dsn::causes(&error),
                "no session: events wait in Postgres until this is mended; trying again"
            );
        } else {
            tracing::warn!(
                error = dsn::causes(&error),
                attempt = self.retry.failures() + 1,
                "no connection to Postgres; trying again"
            );
        }
        self.wait(!passes);
        Ok(())
    }

    pub(super) fn lost(&mut self, error: WireError) -> Result<(), PipelineError> {
        if let WireError::Protocol(_) | WireError::Unexpected { .. } = error {
            return Err(PipelineError::Source(error.into()));
        }
        let causes = dsn::causes(&error);
        match error {
            WireError::Server(refused) if !is_passing(&refused.code) => {
                let found = format!(
                    "expected events from the slot {}, found that the server ends each stream: {causes}",
                    self.slot.name
                );
                let cure = if refused.code == UNDEFINED_OBJECT {
                    "the slot is older than its publication, or the publication was dropped and made again, and this server cannot decode what was written in between: run `relay drop --yes` and `relay init`; unpublished rows still stand in relay.outbox, but what relay.emit and captured tables wrote since the confirmed position is not sent"
                } else {
                    "see the server's log; the relay tries again by itself"
                };
                // Said at its begin; the tries that follow say nothing new.
                self.conditions.set(SESSION, "", Condition::blocked(found, cure));
            }
            _ => tracing::warn!(
                error = causes,
                "the connection to Postgres is lost; connecting again"
            ),
        }
        self.notice_progress();
        self.wait(false);
        Ok(())
    }

    /// Waits before the next try. A server that is down is asked every few seconds at least.
    fn wait(&mut self, down: bool) {
        const DOWN: Duration = Duration::from_secs(6);
        let wait = self.retry.next(fastrand::f64());
        let wait = if down { wait.min(DOWN) } else { wait };
        tracing::debug!(
            failures = self.retry.failures(),
            ?wait,
            "no session; trying again after this"
        );
        self.source = Source::wait(wait);
    }

    /// The waits begin anew once something was read, or a session has stood for longer than the
    /// longest wait. To be connected alone is nothing: a server may end each session at once.
    fn notice_progress(&mut self) {
        const STANDS: Duration = Duration::from_secs(20);
        let received = self.intake.ledger().received_lsn();
        let stands =
            matches!(self.source, Source::Streaming(_)) && self.connected_at.elapsed() > STANDS;
        if received > self.achieved || stands {
            self.achieved = received;
            self.retry.achieved();
            self.conditions.clear(SESSION, "");
        }
    }

    /// Ends the session because the server is stopping, and would wait for it until every event
    /// is confirmed. Nothing is lost: what is not confirmed comes again.
    pub(super) fn give_back(&mut self) {
        if !matches!(self.source, Source::Streaming(_)) {
            return;
        }
        self.send_status(true);
        tracing::warn!("the server is shutting down: its session is given back; connecting again");
        self.wait(true);
    }

    /// Reports the flush position when it is time to.
    pub(super) fn send_status(&mut self, now: bool) {
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
        if let Err(error) = session.send_status(received, flushed) {
            let _ = self.lost(error);
            return;
        }
        self.notice_progress();
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
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        self.send_status(true);
        self.report.confirmed = self.report.confirmed.max(self.intake.ledger().flush_lsn());
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
