//! The preconditions of what the stream carries: its encoding, and the keys of our own messages.

use super::{Finding, Passing, Preconditions, Problem};

/// Encodings of which the server can convert every text to UTF-8.
const ENCODINGS: [&str; 16] = [
    "UTF8",
    "SQL_ASCII",
    "LATIN1",
    "LATIN2",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "ISO_8859_5",
    "KOI8R",
    "KOI8U",
    "WIN866",
    "WIN1256",
];

impl Preconditions<'_> {
    /// The database's encoding has only characters that UTF-8 has too: at one that cannot be
    /// converted, the server would end every session.
    ///
    /// # Errors
    /// When it has others.
    pub async fn encoding(&self) -> Finding {
        let found =
            self.text("select current_setting($1)", "server_encoding").await?.unwrap_or_default();
        if ENCODINGS.contains(&found.as_str()) {
            return Ok(format!("encoding {found}"));
        }
        Err(Problem::new(
            format!(
                "expected an encoding of the database of which every text can be converted to UTF-8, found {found}"
            ),
            "copy the database into one of the encoding UTF8 (pg_dump, then create database ... encoding 'UTF8' template template0)",
        ))
    }

    /// The keys that sign messages of our own are there and can be read.
    ///
    /// # Errors
    /// When they are not.
    pub async fn secret(&self) -> Finding {
        if self.text("select to_regclass($1)::text", "relay.secret").await?.is_none() {
            return Err(Problem::new(
                "expected the table relay.secret, found none",
                "run `relay init` with a role that may create it",
            )
            .may_pass());
        }
        // As the relay reads them.
        const SQL: &str =
            "select id, inner_key, outer_key, unsigned_until from relay.secret limit 0";
        self.client.batch_execute(SQL).await.map_err(|error| {
            let doing = "expected a role that may read relay.secret, found one that may not";
            let cure = "run GRANT SELECT ON relay.secret TO the relay's role, and to no other";
            match Problem::refused_or(doing, &error, cure) {
                // The connection was lost: nothing is known of it.
                lost if lost.passing == Passing::ByItself => lost,
                refused => refused.may_pass(),
            }
        })?;
        Ok("messages of relay.emit are signed".to_owned())
    }

    /// No publication sends the keys to a subscriber.
    ///
    /// # Errors
    /// When one does.
    pub async fn secret_is_kept(&self) -> Finding {
        const SQL: &str = "select pubname::text from pg_publication_tables
            where schemaname = 'relay' and tablename = $1 order by 1 limit 1";
        match self.text(SQL, "secret").await? {
            None => Ok("no publication covers relay.secret".to_owned()),
            Some(name) => Err(Problem::new(
                format!(
                    "expected no publication that covers relay.secret, found {name}: whoever subscribes to it can sign messages of relay.emit"
                ),
                "publish tables by name instead of all tables or all of the schema relay, then run SELECT relay.rotate_secret()",
            )),
        }
    }
}
