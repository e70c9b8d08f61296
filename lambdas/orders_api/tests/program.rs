//! The program: its arguments, its beginning and its end.

use crate::support::{LONG, ReadModel, Service};
use std::process::{Command, Output};
use tokio::time::timeout;

#[tokio::test]
async fn a_service_that_is_told_to_end_answers_what_it_was_asked_before() {
    let read_model = ReadModel::start().await;
    let mut service = Service::start(&read_model.url(), "60s").await;
    let stop = async {
        read_model.announced(1).await;
        service.terminate();
        // No one new is let in, and the one who waits is still answered.
        while tokio::net::TcpStream::connect(&service.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        read_model.bring("o-1", 1, "c-1").await;
    };
    let (answer, ()) = tokio::join!(service.get("/orders/o-1?min_version=1"), stop);
    assert_eq!(answer.status, 200);
    let status = timeout(LONG, service.process.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orders_api"))
        .args(arguments)
        .env_remove("READ_MODEL_URL")
        .output()
        .unwrap()
}

#[test]
fn the_help_shows_examples_and_hides_the_connection_string() {
    let output = Command::new(env!("CARGO_BIN_EXE_orders_api"))
        .arg("--help")
        .env("READ_MODEL_URL", "postgres://u:secret@localhost/d")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for said in ["Examples:", "min_version=5&stale=true", "127.0.0.1:8080", "READ_MODEL_URL"] {
        assert!(help.contains(said), "{said} is not in {help}");
    }
    assert!(!help.contains("secret"), "{help}");
}

#[test]
fn what_it_cannot_start_with_is_named_and_no_secret_is_shown() {
    let output = program(&[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--read-model-url"));
    let output = program(&["--read-model-url", "postgres://u:secret@127.0.0.1:1/d"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("cannot use the read model postgres://u@127.0.0.1:1/d"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let output = Command::new(env!("CARGO_BIN_EXE_orders_api"))
        .args(["--read-model-url", "postgres://u:secret@127.0.0.1:1/d"])
        .env("READ_MODEL_POOLER", "statement")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("expected READ_MODEL_POOLER to be transaction"), "{error}");
    let output = program(&["--read-model-url", "postgres://u:secret@localhost/d?sslmode=never"]);
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
}
