//! What the relay writes into the source database: each is tried by `relay check`, in a transaction
//! that is rolled back.
//!
//! A statement of the relay that writes into the source database has its row here.

use super::{Finding, Preconditions, Problem};

/// One thing that the relay writes.
#[derive(Clone, Copy, Debug)]
struct Write<'a> {
    /// What it is for.
    name: &'static str,
    /// As the relay writes it.
    sql: &'a str,
    /// What to do where the role may not.
    privilege: &'static str,
}

/// What `relay run` cannot do without.
const NEEDED: &[Write<'_>] = &[
    Write {
        name: "a dead letter",
        sql: "insert into relay.dead_letter
            (event_id, destination, key, event_type, reason, error_code, attempts, position, body, attributes,
             content, head)
            values (null, 'relay.check', 'relay.check', 'relay.check', '', null, 0, 'relay.check', '', '{}', null, null)
            on conflict do nothing",
        privilege: "run GRANT USAGE ON SCHEMA relay, and GRANT SELECT, INSERT, UPDATE, DELETE ON relay.dead_letter, TO the relay's role",
    },
    Write {
        name: "a condition",
        sql: "delete from relay.condition where slot = 'relay.check';
            insert into relay.condition as c (slot, kind, subject, severity, found, cure)
            values ('relay.check', 'check', '', 'notice', '', '')
            on conflict (slot, kind, subject) do update set since = case when c.severity = excluded.severity then c.since else now() end,
              severity = excluded.severity, found = excluded.found, cure = excluded.cure;
            delete from relay.condition c where slot = 'relay.check' and kind = 'check'",
        privilege: "run GRANT USAGE ON SCHEMA relay, and GRANT SELECT, INSERT, UPDATE, DELETE ON relay.condition, TO the relay's role",
    },
];

/// What to do where the role may not know and begin epochs.
const EPOCH: &str = "run GRANT USAGE ON SCHEMA relay, GRANT SELECT, INSERT, UPDATE ON relay.history, and GRANT EXECUTE ON FUNCTION relay.slot_epoch(name, boolean), TO the relay's role";

/// What a relay does that finds another server behind its slot, after a restore or an upgrade.
const NEW_EPOCH: Write<'_> = Write {
    name: "a new epoch",
    sql: "select relay.slot_epoch('relay.check'::name, true)",
    privilege: EPOCH,
};

/// Of a relay with `postgres.heartbeat`.
const HEARTBEAT: Write<'_> = Write {
    name: "a heartbeat",
    sql: "select pg_logical_emit_message(true, 'relay.heartbeat', '')",
    privilege: "run GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO the relay's role, or leave RELAY_HEARTBEAT out",
};

/// What an operator does by `relay dead-letters`, maybe with another role.
const REDRIVE: Write<'_> = Write {
    name: "a redrive",
    sql: "select relay.redrive('{}'::bigint[])",
    privilege: "run GRANT EXECUTE ON FUNCTION relay.redrive(bigint[]) TO the role that redrives",
};

impl Preconditions<'_> {
    /// The relay can write what it needs to.
    ///
    /// # Errors
    /// With the first write that the server refuses.
    pub async fn writes(&self, heartbeat: bool) -> Finding {
        let heartbeat = heartbeat.then_some(&HEARTBEAT);
        let mut written = Vec::new();
        // As each session of the relay begins: where the epoch is known, it is only read.
        let sql =
            format!("select relay.slot_epoch('{}'::name, false)", self.slot.replace('\'', "''"));
        let epoch = Write { name: "the slot's epoch", sql: &sql, privilege: EPOCH };
        for write in NEEDED.iter().chain(heartbeat).chain([&epoch]) {
            self.write(write).await?;
            written.push(write.name);
        }
        Ok(format!("written and rolled back: {}", written.join(", ")))
    }

    /// What an operator may miss later: redriving, a new epoch, and the upkeep of the outbox's partitions.
    pub async fn notes(&self) -> Vec<Problem> {
        let mut notes = Vec::new();
        notes.extend(self.write(&REDRIVE).await.err());
        notes.extend(self.write(&NEW_EPOCH).await.err());
        notes.extend(self.upkeep().await.err());
        notes.extend(self.standbys().await.err());
        notes
    }

    async fn write(&self, write: &Write<'_>) -> Result<(), Problem> {
        let statements = format!(
            "begin; set local lock_timeout = '2s'; set local statement_timeout = '10s'; {}; rollback",
            write.sql
        );
        let written = self.client.batch_execute(&statements).await;
        let Err(error) = written else { return Ok(()) };
        // The error ended the statements, and left the transaction open.
        let _ = self.client.batch_execute("rollback").await;
        let doing = format!(
            "expected to be able to write {}, found that the server refuses it",
            write.name
        );
        Err(Problem::refused_or(&doing, &error, write.privilege))
    }

    /// Only an owner makes and drops partitions: the function's, where it runs as its owner. It is
    /// asked and not tried, because a trial would lock the outbox.
    async fn upkeep(&self) -> Result<(), Problem> {
        const SQL: &str = "select bool_and(pg_has_role(case when f.prosecdef then f.proowner
                else (select oid from pg_roles where rolname = current_user) end, c.relowner, 'usage')
              and has_function_privilege(f.oid, 'execute')),
            coalesce(max(pg_get_userbyid(c.relowner)), '?')
            from pg_proc as f join pg_namespace as n on n.oid = f.pronamespace
            join pg_class as c on c.oid = to_regclass('relay.outbox')
            where n.nspname = 'relay' and f.proname = 'maintain_outbox'";
        let row = self.client.query_one(SQL, &[]).await.map_err(|e| Problem::query(&e))?;
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Ok(());
        }
        Err(Problem::new(
            "expected a role that owns relay.outbox, found one that does not: the relay can neither make its coming partitions nor drop those that were published; rows then stand in its default partition",
            format!(
                "run GRANT \"{owner}\" TO the relay's role, or SELECT relay.maintain_outbox(…) every minute as {owner}",
                owner = row.get::<_, &str>(1)
            ),
        ))
    }

    /// A slot that standbys keep is to be confirmed by them before the relay reads on.
    async fn standbys(&self) -> Result<(), Problem> {
        const SQL: &str = "select (to_jsonb(s) ->> 'failover') = 'true'
                and coalesce(current_setting('synchronized_standby_slots', true), '') = ''
            from pg_replication_slots as s where s.slot_name = $1";
        let row =
            self.client.query_opt(SQL, &[&self.slot]).await.map_err(|e| Problem::query(&e))?;
        if row.and_then(|row| row.get::<_, Option<bool>>(0)) != Some(true) {
            return Ok(());
        }
        Err(Problem::new(
            format!(
                "expected the standbys' slots in synchronized_standby_slots, found none: the relay can publish what no standby has yet, and the slot {} that a failover finds lies behind",
                self.slot
            ),
            "set synchronized_standby_slots to the standbys' physical slots on the primary, and reload it",
        ))
    }
}
