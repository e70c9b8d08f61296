//! The login. The only file of the relay that sees a password.

use super::WireError;
use super::connect::Link;
use bytes::BytesMut;
use dsn::{BUILTIN_NAMES, Dsn};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config::ChannelBinding;

/// The text forms that the decoder counts on, whatever the server's own settings are.
const FORMS: &str = "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex";

/// Logs in. A password goes in clear text only over TLS, or without leaving the machine.
pub(super) async fn login(link: &mut Link, dsn: &Dsn) -> Result<(), WireError> {
    // The string's own options first: what the decoder counts on cannot be undone by them.
    let options = match dsn.config().get_options() {
        Some(own) => format!("{own} {BUILTIN_NAMES} {FORMS}"),
        None => format!("{BUILTIN_NAMES} {FORMS}"),
    };
    let parameters = [
        ("user", dsn.user()),
        ("database", dsn.database()),
        ("replication", "database"),
        ("application_name", dsn.config().get_application_name().unwrap_or("relay")),
        ("client_encoding", "UTF8"),
        ("options", &options),
    ];
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out).map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    let must_bind = dsn.config().get_channel_binding() == ChannelBinding::Require;
    let mut bound = false;
    loop {
        match link.message("an answer to the login").await? {
            Message::AuthenticationSasl(body) => {
                bound = scram(link, dsn, &body).await?;
            }
            Message::AuthenticationOk if must_bind && !bound => {
                return Err(link.refuse_login(
                    "channel_binding=require wants SCRAM over TLS, and the server asks for another kind of login",
                ));
            }
            Message::AuthenticationOk
            | Message::ParameterStatus(_)
            | Message::BackendKeyData(_)
            | Message::NoticeResponse(_) => {}
            Message::AuthenticationCleartextPassword | Message::AuthenticationMd5Password(_)
                if must_bind =>
            {
                return Err(link.refuse_login(
                    "channel_binding=require wants SCRAM, and the server asks for the password itself",
                ));
            }
            Message::AuthenticationCleartextPassword
                if link.stream.is_encrypted() || dsn.is_local() =>
            {
                let password = password(link, dsn).await?;
                frontend::password_message(&password, &mut out)
                    .map_err(|e| link.io("logging in to", e))?;
                link.send(&mut out).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let password = password(link, dsn).await?;
                let hash = md5_hash(dsn.user().as_bytes(), &password, body.salt());
                frontend::password_message(hash.as_bytes(), &mut out)
                    .map_err(|e| link.io("logging in to", e))?;
                link.send(&mut out).await?;
            }
            Message::ReadyForQuery(_) => return Ok(()),
            _ => {
                return Err(
                    link.refuse_login("it asks for a kind of login that is not supported here")
                );
            }
        }
    }
}

/// A SCRAM exchange; returns whether it is bound to the TLS connection.
async fn scram(
    link: &mut Link,
    dsn: &Dsn,
    body: &AuthenticationSaslBody,
) -> Result<bool, WireError> {
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Ok(Some(mechanism)) = mechanisms.next() {
        plain |= mechanism == sasl::SCRAM_SHA_256;
        plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
    }
    let wanted = dsn.config().get_channel_binding();
    let end_point = match wanted {
        ChannelBinding::Disable => None,
        _ => link.stream.channel_binding(),
    };
    let (mechanism, binding) = match end_point {
        Some(hash) if plus => {
            (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
        }
        // Said to the server, so that it notices when someone between took its offer away.
        Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        _ => return Err(link.refuse_login("it offers no SCRAM-SHA-256")),
    };
    let bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
    if wanted == ChannelBinding::Require && !bound {
        return Err(link.refuse_login(
            "channel_binding=require needs TLS and a server that offers SCRAM-SHA-256-PLUS",
        ));
    }
    let password = password(link, dsn).await?;
    let mut exchange = sasl::ScramSha256::new(&password, binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut out)
        .map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    let Message::AuthenticationSaslContinue(body) = link.message("a SCRAM challenge").await? else {
        return Err(link.refuse_login("it broke off the SCRAM exchange"));
    };
    exchange.update(body.data()).map_err(|e| link.io("logging in to", e))?;
    frontend::sasl_response(exchange.message(), &mut out)
        .map_err(|e| link.io("logging in to", e))?;
    link.send(&mut out).await?;
    let Message::AuthenticationSaslFinal(body) = link.message("the end of SCRAM").await? else {
        return Err(link.refuse_login("it broke off the SCRAM exchange"));
    };
    exchange.finish(body.data()).map_err(|e| link.io("logging in to", e))?;
    Ok(bound)
}

async fn password(link: &Link, dsn: &Dsn) -> Result<Vec<u8>, WireError> {
    dsn.password()
        .await?
        .ok_or_else(|| link.refuse_login("a password is needed, and there is none for this server"))
}
