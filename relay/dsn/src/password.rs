//! Where the password comes from when the connection string has none.
//!
//! In this order, the first that there is: the connection string; what the caller
//! has (a variable, a file of the password alone); the line for this server in a
//! password file of libpq's form. Or a fresh one, minted for each connection.

use crate::{Dsn, Error};
use std::fmt;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use tokio_postgres::config::Host;

/// What is wrong with a minted password.
pub type MintError = Box<dyn std::error::Error + Send + Sync>;

type Minted = Pin<Box<dyn Future<Output = Result<String, MintError>> + Send>>;

/// Makes a password for a host, a port and a user, as AWS IAM login needs one for each connection.
#[derive(Clone)]
pub struct Mint(Arc<dyn Fn(String, u16, String) -> Minted + Send + Sync>);

impl Mint {
    /// A mint that asks this function.
    pub fn new<F>(make: impl Fn(String, u16, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, MintError>> + Send + 'static,
    {
        Self(Arc::new(move |host, port, user| Box::pin(make(host, port, user))))
    }
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mint")
    }
}

impl Dsn {
    /// The same, with this password if the string has none.
    #[must_use]
    pub fn with_password_from(mut self, password: Option<String>) -> Self {
        if let (None, Some(password)) = (self.config.get_password(), password) {
            self.config.password(password);
        }
        self
    }

    /// The same, with a password of its own for each connection.
    ///
    /// # Errors
    /// When a host would be given it over a connection that is not encrypted.
    pub fn with_mint(mut self, mint: Mint) -> Result<Self, Error> {
        if self.config.get_ssl_mode() != tokio_postgres::config::SslMode::Require {
            return Err(Error::TokenWithoutTls { dsn: self.to_string() });
        }
        self.mint = Some(mint);
        Ok(self)
    }

    /// The password file that the connection string names (`passfile`).
    #[must_use]
    pub fn password_file(&self) -> Option<&Path> {
        self.pass_file.as_deref()
    }

    /// The same, with the password that a file of libpq's form has for the first host.
    ///
    /// A file that is not there is none; one that others may read is refused, as libpq does.
    /// Form: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.
    ///
    /// # Errors
    /// When the file cannot be read, or its permissions are too wide.
    pub fn with_password_in(self, file: &Path) -> Result<Self, Error> {
        if self.config.get_password().is_some() {
            return Ok(self);
        }
        let refused = |source| Error::PasswordFile { path: file.to_owned(), source };
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(error) => return Err(refused(error)),
        };
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(Error::OpenPasswordFile { path: file.to_owned() });
        }
        let text = std::fs::read_to_string(file).map_err(refused)?;
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(_)) | None => "localhost".to_owned(),
        };
        let wanted = [&host, &self.port(0).to_string(), self.database(), self.user()];
        let password = text.lines().find_map(|line| line_for(line, wanted));
        Ok(self.with_password_from(password))
    }

    /// The password for the first host: a fresh one where they are minted.
    ///
    /// # Errors
    /// When none can be minted.
    pub async fn password(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some(Mint(mint)) = &self.mint else {
            return Ok(self.config.get_password().map(<[u8]>::to_vec));
        };
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => String::new(),
        };
        let minted = mint(host, self.port(0), self.user().to_owned()).await;
        let password = minted.map_err(|source| Error::Mint { dsn: self.to_string(), source })?;
        Ok(Some(password.into_bytes()))
    }
}

/// The password of a line, if the line is for this host, port, database and user.
fn line_for(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, fields.len()) {
            ('\\', _) => fields.last_mut()?.extend(chars.next()),
            (':', ..=4) => fields.push(String::new()),
            (c, _) => fields.last_mut()?.push(c),
        }
    }
    let (password, place) = fields.split_last()?;
    let matches = place.len() == 4
        && place.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    matches.then(|| password.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let wanted = ["db.example.com", "5432", "shop", "relay"];
        for (line, password) in [
            ("db.example.com:5432:shop:relay:secret", Some("secret")),
            ("*:*:*:relay:a\\:b\\\\c:d", Some("a:b\\c:d")),
            ("*:*:*:other:secret", None),
            ("# *:*:*:*:secret", None),
            ("*:*:relay:secret", None),
            ("", None),
        ] {
            assert_eq!(line_for(line, wanted).as_deref(), password, "{line}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        let dsn: Dsn = "postgres://relay@localhost/shop".parse().unwrap();
        assert!(dsn.clone().with_password_in(&path).unwrap().config().get_password().is_none());
        std::fs::write(&path, "localhost:5432:shop:relay:hunter2\n").unwrap();
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, open).unwrap();
        let error = dsn.clone().with_password_in(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let read = dsn.with_password_in(&path).unwrap();
        assert_eq!(read.config().get_password(), Some(&b"hunter2"[..]));
        let own: Dsn = "postgres://relay:own@localhost/shop".parse().unwrap();
        let own = own.with_password_in(&path).unwrap();
        assert_eq!(own.config().get_password(), Some(&b"own"[..]));
    }

    #[test]
    fn a_minted_password_needs_tls() {
        let mint = || Mint::new(|_, _, _| async { Ok("token".to_owned()) });
        let plain: Dsn = "postgres://relay@localhost/shop".parse().unwrap();
        assert!(matches!(plain.with_mint(mint()), Err(Error::TokenWithoutTls { .. })));
        let remote: Dsn = "postgres://relay@db.example.com/shop".parse().unwrap();
        assert!(remote.with_mint(mint()).is_ok());
    }
}
