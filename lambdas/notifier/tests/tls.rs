//! HTTPS, verified.

use crate::support::calls;
use consumer::Performed;
use local::receiver::Receiver;
use notifier::Target;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Authority {
    acceptor: TlsAcceptor,
    file: PathBuf,
}

/// A server's certificate for this name, and the file with which a client trusts it.
fn authority(name: &str, file: &str) -> Authority {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("notifier-{file}-{}.pem", std::process::id()));
    std::fs::write(&file, cert.pem()).unwrap();
    Authority { acceptor: TlsAcceptor::from(Arc::new(config)), file }
}

async fn listen(acceptor: TlsAcceptor) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiver::behind(listener.local_addr().unwrap().port());
    let serving = receiver.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (serving, acceptor) = (serving.clone(), acceptor.clone());
            tokio::spawn(async move { serving.serve(acceptor.accept(stream).await.ok()?).await });
        }
    });
    receiver
}

#[tokio::test]
async fn https_is_spoken_to_a_receiver_that_shows_who_it_is_and_to_no_other() {
    let (known, other, elsewhere) = (
        authority("localhost", "known"),
        authority("localhost", "other"),
        authority("elsewhere.example", "elsewhere"),
    );
    let receiver = listen(known.acceptor).await;
    let url = format!("https://localhost:{}/notices", receiver.port());
    let trusting = Target::new(&url, Some(known.file)).unwrap();
    assert_eq!(trusting.post("k", "{}".to_owned()).await, Performed::Done);
    let mistrusting = Target::new(&url, Some(other.file)).unwrap();
    let found = mistrusting.post("k", "{}".to_owned()).await;
    assert!(
        matches!(&found, Performed::NotDone(reason) if reason.contains("certificate")),
        "{found:?}"
    );

    let receiver_of_another_name = listen(elsewhere.acceptor).await;
    let url = format!("https://localhost:{}/notices", receiver_of_another_name.port());
    let found = Target::new(&url, Some(elsewhere.file)).unwrap().post("k", "{}".to_owned()).await;
    assert!(matches!(found, Performed::NotDone(_)), "{found:?}");
    assert_eq!((calls(&receiver), receiver_of_another_name.calls().len()), (vec![1], 0));
}
