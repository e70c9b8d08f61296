//! The rustls connector that a connection string asks for.

use crate::{Dsn, Error, Roots};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

impl Dsn {
    /// A connector that verifies the server's certificate and name in full.
    ///
    /// # Errors
    /// When `sslrootcert` cannot be read, or no authority is known at all.
    pub fn tls(&self) -> Result<MakeRustlsConnect, Error> {
        let roots = match &self.roots {
            Roots::System => system_roots()?,
            Roots::File(path) => file_roots(path)?,
        };
        // The provider is named, not the process's default: two crates could disagree on that.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
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
