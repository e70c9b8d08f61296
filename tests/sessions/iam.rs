//! AWS IAM login.

use super::{Server, open};
use anyhow::Result;
use dsn::{Dsn, Mint};
use std::time::Duration;

/// The server checks the token as a password in clear text, as RDS does.
#[tokio::test]
async fn an_iam_token_is_minted_for_each_connection() -> Result<()> {
    let server = Server::start().await?;
    let client = server.world.client().await?;
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let credentials = || {
        aws_credential_types::Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "test",
        )
    };
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000);
    let token = move |host: &str, port: u16, user: &str| {
        relay::iam::token((host, port), user, "eu-west-1", &credentials(), then)
    };
    let expected = token("localhost", server.world.postgres.port(), "clear")?;
    client.batch_execute(&format!("alter role clear password '{expected}'")).await?;
    let mint = Mint::new({
        let asked = std::sync::Arc::clone(&asked);
        move |host: String, port, user: String| {
            asked.lock().unwrap().push(host.clone());
            let minted = token(&host, port, &user).map_err(dsn::MintError::from);
            async move { minted }
        }
    });
    let dsn: Dsn = server.tls("clear", "").parse()?;
    open(&dsn.with_mint(mint)?).await?;
    assert_eq!(*asked.lock().unwrap(), ["localhost", "localhost"], "one for each connection");
    Ok(())
}
