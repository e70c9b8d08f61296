//! The rustls connector that a connection string asks for.

use crate::{ClientCertificate, Dsn, Error, Roots};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

impl Dsn {
    /// A connector for ordinary connections; see [`Dsn::tls_config`].
    ///
    /// # Errors
    /// As for [`Dsn::tls_config`].
    pub fn tls(&self) -> Result<MakeRustlsConnect, Error> {
        Ok(MakeRustlsConnect::new(self.tls_config()?))
    }

    /// What rustls needs to verify the server's certificate and name in full, and to show the
    /// client's own certificate where there is one.
    ///
    /// # Errors
    /// When a file cannot be read, or no authority is known at all.
    pub fn tls_config(&self) -> Result<ClientConfig, Error> {
        let roots = match &self.roots {
            Roots::System => system_roots()?,
            Roots::File(path) => file_roots(path)?,
        };
        // The provider is named, not the process's default: two crates could disagree on that.
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?;
        let builder = if self.any_name {
            let roots = Arc::new(roots);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|_| Error::NoRoots)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
        } else {
            builder.with_root_certificates(roots)
        };
        let mut config = match &self.client_certificate {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let (chain, key) = own.read()?;
                builder.with_client_auth_cert(chain, key).map_err(Error::Tls)?
            }
        };
        if self.config.get_ssl_negotiation() == SslNegotiation::Direct {
            // Without it a server refuses a handshake that comes unasked.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }
}

impl ClientCertificate {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |error: rustls::pki_types::pem::Error| Error::ClientCertificate {
                path,
                source: std::io::Error::other(error.to_string()),
            }
        };
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(refused(&self.certificate))?;
        closed(&self.key)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(refused(&self.key))?;
        Ok((chain, key))
    }
}

/// Refuses a key that others may read, as libpq does: root's may be its group's too.
fn closed(key: &Path) -> Result<(), Error> {
    let refused = |source| Error::ClientCertificate { path: key.to_owned(), source };
    let metadata = std::fs::metadata(key).map_err(refused)?;
    let others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & others != 0 {
        return Err(Error::OpenFile { path: key.to_owned(), what: "key (sslkey)" });
    }
    Ok(())
}

/// `verify-ca`: the chain is verified, the name is not. For hosts of this machine alone.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(Error::NoRoots) } else { Ok(store) }
}

fn file_roots(path: &Path) -> Result<RootCertStore, Error> {
    let refused = |source| Error::RootFile { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(refused)?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| refused(std::io::Error::other(e.to_string())))?;
        store.add(certificate).map_err(Error::Tls)?;
    }
    if store.is_empty() {
        return Err(refused(std::io::Error::other("the file holds no certificate")));
    }
    Ok(store)
}
