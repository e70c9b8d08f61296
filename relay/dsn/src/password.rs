//! Where the password comes from when the connection string has none.
//!
//! A fresh one, minted for each connection, where the caller hands in a mint. Else,
//! in this order, the first that there is: the connection string; what the caller has
//! (a variable); a file of the password alone; the line for this server in a password
//! file of libpq's form. Files are read for each connection, so that a password can be
//! changed under a running process, and a host is shown its own password alone.

use crate::{Dsn, Error};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::{fmt, io};
use tokio_postgres::config::{Host, SslMode};

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

/// Where a password is looked for that the connection string does not have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passwords {
    pub(crate) mint: Option<Mint>,
    /// A file that holds the password alone.
    pub(crate) file: Option<PathBuf>,
    /// A file of libpq's form, a line for each server.
    pub(crate) lines: Option<PathBuf>,
}

impl Dsn {
    /// The same, with this password if the string has none. An empty one is none.
    #[must_use]
    pub fn with_password_from(mut self, password: Option<String>) -> Self {
        let password = password.filter(|password| !password.is_empty());
        if let (None, Some(password)) = (self.config.get_password(), password) {
            self.config.password(password);
        }
        self
    }

    /// The same, with a file that holds the password alone, read anew for each connection.
    #[must_use]
    pub fn with_password_file(mut self, file: PathBuf) -> Self {
        self.passwords.file = Some(file);
        self
    }

    /// The same, with a password file of libpq's form where the string names none (`passfile`),
    /// read anew for each connection. One that is not there is as good as empty.
    #[must_use]
    pub fn with_pass_file(mut self, file: PathBuf) -> Self {
        self.passwords.lines.get_or_insert(file);
        self
    }

    /// The same, with a password of its own for each connection.
    ///
    /// # Errors
    /// When a host would be given it over a connection that is not encrypted.
    pub fn with_mint(mut self, mint: Mint) -> Result<Self, Error> {
        if self.config.get_ssl_mode() != SslMode::Require {
            return Err(Error::TokenWithoutTls { dsn: self.to_string() });
        }
        self.passwords.mint = Some(mint);
        Ok(self)
    }

    /// The password for the first host, if there is one: a fresh one where they are minted.
    ///
    /// # Errors
    /// When none can be minted, or a file cannot be used.
    pub async fn password(&self) -> Result<Option<Vec<u8>>, Error> {
        if let Some(Mint(mint)) = &self.passwords.mint {
            let Some(Host::Tcp(host)) = self.config.get_hosts().first() else {
                return Err(Error::TokenWithoutTls { dsn: self.to_string() });
            };
            let minted = mint(host.clone(), self.port(0), self.user().to_owned()).await;
            let password =
                minted.map_err(|source| Error::Mint { dsn: self.to_string(), source })?;
            return Ok(Some(password.into_bytes()));
        }
        if let Some(password) = self.config.get_password() {
            return Ok(Some(password.to_vec()));
        }
        if let Some(file) = &self.passwords.file {
            return alone(file).map(|password| Some(password.into_bytes()));
        }
        match &self.passwords.lines {
            Some(file) => Ok(self.line_in(file)?.map(String::into_bytes)),
            None => Ok(None),
        }
    }

    /// The password that a file of libpq's form has for the first host.
    ///
    /// Form: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.
    fn line_in(&self, file: &Path) -> Result<Option<String>, Error> {
        let refused = |source| Error::PasswordFile { path: file.to_owned(), source };
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        if !metadata.is_file() {
            return Err(refused(io::Error::other("it is no plain file")));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(Error::OpenFile { path: file.to_owned(), what: "password file" });
        }
        let text = std::fs::read_to_string(file).map_err(refused)?;
        let (port, database) = (self.port(0).to_string(), self.database());
        let hosts = self.names();
        Ok(text.lines().find_map(|line| line_for(line, &hosts, [&port, database, self.user()])))
    }

    /// What a line may call the first host.
    fn names(&self) -> Vec<String> {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => vec![name.clone()],
            Some(Host::Unix(folder)) => {
                let folder = folder.display().to_string();
                let usual = ["/tmp", "/var/run/postgresql"].contains(&folder.as_str());
                let local = usual.then(|| "localhost".to_owned());
                local.into_iter().chain([folder]).collect()
            }
            None => Vec::new(),
        }
    }
}

/// The password that is all of a file, but for the end of its line.
///
/// Its permissions are not looked at: what puts a secret into a container as a file often
/// leaves it readable to all, in a place that no one else sees.
fn alone(file: &Path) -> Result<String, Error> {
    let refused = |source| Error::PasswordFile { path: file.to_owned(), source };
    let text = std::fs::read_to_string(file).map_err(refused)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(refused(io::Error::other("it is empty"))),
        password => Ok(password.to_owned()),
    }
}

/// The password of a line, if the line is for one of these hosts and this port, database and user.
fn line_for(line: &str, hosts: &[String], wanted: [&str; 3]) -> Option<String> {
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
    let [host, rest @ .., password] = fields.as_slice() else {
        return None;
    };
    let matches = rest.len() == wanted.len()
        && (host == "*" || hosts.contains(host))
        && rest.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    matches.then(|| password.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let hosts = ["db.example.com".to_owned()];
        for (line, password) in [
            ("db.example.com:5432:shop:relay:secret", Some("secret")),
            ("*:*:*:relay:a\\:b\\\\c:d", Some("a:b\\c:d")),
            ("*:*:*:other:secret", None),
            ("other.example.com:*:*:relay:secret", None),
            ("# *:*:*:*:secret", None),
            ("*:*:relay:secret", None),
            ("", None),
        ] {
            let found = line_for(line, &hosts, ["5432", "shop", "relay"]);
            assert_eq!(found.as_deref(), password, "{line}");
        }
    }

    /// A file with this mode in a folder that is gone with it.
    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    async fn password(dsn: &Dsn) -> Option<String> {
        dsn.password().await.unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_refused_and_a_missing_one_is_none() {
        let text = "localhost:5432:shop:relay:hunter2\n";
        let dsn: Dsn = "postgres://relay@localhost/shop".parse().unwrap();
        let (_folder, closed) = file(text, 0o600);
        assert_eq!(password(&dsn.clone().with_pass_file(closed)).await.unwrap(), "hunter2");
        for mode in [0o644, 0o640, 0o604] {
            let (_folder, open) = file(text, mode);
            let error = dsn.clone().with_pass_file(open).password().await.unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert_eq!(password(&dsn.with_pass_file("/nowhere/pgpass".into())).await, None);
    }

    #[tokio::test]
    async fn each_host_is_shown_its_own_password() {
        let text = "a.example.com:*:*:*:for a\nb.example.com:*:*:*:for b\n/run/pg:*:*:*:for c\n";
        let (_folder, path) = file(text, 0o600);
        let hosts = "host=a.example.com,b.example.com,/run/pg,d.example.com user=relay";
        let dsn: Dsn = format!("{hosts} passfile={}", path.display()).parse().unwrap();
        let mut found = Vec::new();
        for host in 0..dsn.hosts() {
            found.push(password(&dsn.only_host(host)).await);
        }
        let expected = [Some("for a"), Some("for b"), Some("for c"), None];
        assert_eq!(found, expected.map(|text| text.map(str::to_owned)));
    }

    #[tokio::test]
    async fn the_first_place_that_has_a_password_counts() {
        let (_folder, path) = file("*:*:*:*:from the lines\n", 0o600);
        let bare: Dsn = "postgres://relay@localhost/shop".parse().unwrap();
        let lines = bare.with_pass_file(path);
        assert_eq!(password(&lines).await.unwrap(), "from the lines");
        let (_folder, path) = file("from the file\n", 0o444);
        let both = lines.clone().with_password_file(path.clone());
        assert_eq!(password(&both).await.unwrap(), "from the file");
        std::fs::write(&path, "changed").unwrap();
        assert_eq!(password(&both).await.unwrap(), "changed");
        let given = |password: &str| both.clone().with_password_from(Some(password.to_owned()));
        assert_eq!(password(&given("from a variable")).await.unwrap(), "from a variable");
        assert_eq!(password(&given("")).await.unwrap(), "changed");
        let own: Dsn = "postgres://relay:own@localhost/shop".parse().unwrap();
        let own = own.with_password_from(Some("other".to_owned())).with_password_file(path.clone());
        assert_eq!(password(&own).await.unwrap(), "own");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(both.password().await, Err(Error::PasswordFile { .. })));
    }

    #[test]
    fn a_socket_of_the_usual_folder_is_localhost_to_a_line() {
        let names = |text: &str| text.parse::<Dsn>().unwrap().names();
        assert_eq!(names("host=/tmp user=u"), ["localhost", "/tmp"]);
        assert_eq!(names("host=/run/pg user=u"), ["/run/pg"]);
        assert_eq!(names("host=db.example.com user=u"), ["db.example.com"]);
    }

    #[test]
    fn a_minted_password_needs_tls() {
        let mint = || Mint::new(|_, _, _| async { Ok("token".to_owned()) });
        for text in ["postgres://relay@localhost/shop", "host=localhost user=u sslmode=prefer"] {
            let plain: Dsn = text.parse().unwrap();
            assert!(matches!(plain.with_mint(mint()), Err(Error::TokenWithoutTls { .. })));
        }
        let remote: Dsn = "postgres://relay@db.example.com/shop".parse().unwrap();
        assert!(remote.with_mint(mint()).is_ok());
    }
}
