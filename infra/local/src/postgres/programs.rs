//! Which Postgres the servers are: the one that `RELAY_TEST_POSTGRES` names, or
//! the one that is installed.

use crate::process::{User, command, server_user};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the Postgres to test with: a version that `infra/local/setup --postgres`
/// has installed, such as `18`, or a folder of `initdb` and `postgres`.
const VARIABLE: &str = "RELAY_TEST_POSTGRES";

/// The folder of `initdb` and `postgres`: that of `RELAY_TEST_POSTGRES`, or that of
/// the PATH, or Debian's newest.
///
/// Client programs stand there only where it is a distribution's.
///
/// # Errors
/// When there is none, or not the one that is named.
pub fn programs() -> Result<PathBuf> {
    match std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        Some(named) => readable(&chosen(Path::new(&named))?, server_user()?),
        None => installed(),
    }
}

/// The folder that the variable means.
fn chosen(named: &Path) -> Result<PathBuf> {
    let version = named.to_str().filter(|text| text.parse::<u32>().is_ok());
    let folder = match version {
        Some(major) => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/postgres"))
            .join(major)
            .join("bin"),
        None => named.to_owned(),
    };
    if !folder.join("initdb").exists() || !folder.join("postgres").exists() {
        let cure = version.map_or_else(
            || "name a folder of both, or a version".to_owned(),
            |major| format!("run infra/local/setup --postgres {major}"),
        );
        bail!("expected initdb and postgres in {}, found none; {cure}", folder.display());
    }
    folder.canonicalize().context("find the folder of Postgres")
}

fn installed() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).map(|folder| folder.join("initdb")).find(|p| p.exists());
    if let Some(folder) = on_path
        .and_then(|initdb| initdb.canonicalize().ok())
        .and_then(|real| real.parent().map(Path::to_owned))
        .filter(|folder| folder.join("postgres").exists())
    {
        return Ok(folder);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("initdb").exists())
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, folder)| folder)
        .context("expected Postgres (initdb), found none; run infra/local/setup")
}

/// The same programs where the servers' user may read them: a checkout in root's own
/// folder is closed to it, so a copy is kept among the temporary files.
fn readable(programs: &Path, user: Option<User>) -> Result<PathBuf> {
    let may_run = |folder: &Path| {
        let mut test = command(Path::new("test"), "KILL", user);
        test.arg("-x").arg(folder.join("postgres")).status().is_ok_and(|status| status.success())
    };
    if may_run(programs) {
        return Ok(programs.to_owned());
    }
    let copy = std::env::temp_dir().join(format!("relay-postgres-{}", version(programs)?));
    if !may_run(&copy.join("bin")) {
        let home = programs.parent().context("expected a folder with bin, lib and share")?;
        let making = tempfile::Builder::new().prefix("relay-postgres-").tempdir()?;
        let copied =
            Command::new("cp").arg("-a").arg(home).arg(making.path().join("copy")).status();
        ensure!(copied.context("run cp")?.success(), "{} cannot be copied", home.display());
        // One step, however many do this at once; who comes second finds it done.
        let _ = std::fs::rename(making.path().join("copy"), &copy);
    }
    let folder = copy.join("bin");
    ensure!(
        may_run(&folder),
        "expected the servers' user to be able to run {} or its copy {}; it can run neither",
        programs.display(),
        folder.display()
    );
    Ok(folder)
}

/// A command of one of the programs, with the libraries that came with it.
pub(super) fn program(programs: &Path, name: &str, signal: &str, user: Option<User>) -> Command {
    with_libraries(command(&programs.join(name), signal, user), programs)
}

fn with_libraries(mut command: Command, programs: &Path) -> Command {
    let libraries = programs.parent().map(|home| home.join("lib"));
    if let Some(libraries) = libraries.filter(|folder| folder.exists()) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

/// What the server calls itself, as a file may be named.
pub(super) fn version(programs: &Path) -> Result<String> {
    let asked = with_libraries(Command::new(programs.join("postgres")), programs)
        .arg("--version")
        .output()
        .context("ask for Postgres's version")?;
    ensure!(asked.status.success(), "{} does not run", programs.join("postgres").display());
    let text = String::from_utf8_lossy(&asked.stdout);
    Ok(text.chars().filter(|c| c.is_ascii_digit() || *c == '.').take(8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_installed_is_named_with_the_cure() {
        let found = chosen(Path::new("9")).unwrap_err().to_string();
        assert!(found.contains("run infra/local/setup --postgres 9"), "{found}");
        let found = chosen(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(found.contains("expected initdb and postgres in /nowhere, found none"), "{found}");
    }

    #[test]
    fn programs_that_the_servers_user_cannot_reach_are_copied_to_where_it_can() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("home/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder.path(), closed).unwrap();
        let stand_in = bin.join("postgres");
        let version = format!("{:08}", std::process::id());
        std::fs::write(&stand_in, format!("#!/bin/sh\necho {version}\n")).unwrap();
        std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
        let user = server_user().unwrap();
        let found = readable(&bin, user).unwrap();
        // Only root runs its servers as someone else, who cannot enter this folder.
        if user.is_none() {
            assert_eq!(found, bin);
            return;
        }
        let copy = std::env::temp_dir().join(format!("relay-postgres-{version}"));
        assert_eq!(found, copy.join("bin"));
        assert_eq!(readable(&bin, user).unwrap(), found);
        std::fs::remove_dir_all(copy).unwrap();
    }
}
