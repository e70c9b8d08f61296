//! The workspace that a projection is added to.
//!
//! Knows: where its parts are. Must not know: what is written into them.

use super::edit;
use super::scaffold::Scaffold;
use super::write::{Change, Plan};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

const MANIFEST: &str = "Cargo.toml";
const TEMPLATE: &str = "infra/template.yaml";

/// What makes a folder the workspace of Relay.
const PARTS: [&str; 3] = [MANIFEST, TEMPLATE, "lambdas/consumer/Cargo.toml"];

/// What the new function takes from the workspace's dependencies.
const NEEDED: [&str; 5] = ["consumer", "local", "serde", "serde_json", "tokio"];

/// A checkout of Relay, or a fork of it.
#[derive(Debug)]
pub(super) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The folder that is named, or the one that this folder is in.
    pub(super) fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        let has_all = |folder: &Path| PARTS.iter().all(|part| folder.join(part).is_file());
        let here = match named {
            Some(folder) => std::fs::canonicalize(folder)
                .with_context(|| format!("cannot use --dir {}", folder.display()))?,
            None => std::env::current_dir().context("cannot tell which folder this is")?,
        };
        let at_most = if named.is_some() { 1 } else { usize::MAX };
        let root = here.ancestors().take(at_most).find(|folder| has_all(folder));
        let Some(root) = root else {
            let missing: Vec<&str> =
                PARTS.into_iter().filter(|part| !here.join(part).is_file()).collect();
            bail!(
                "expected a checkout of Relay, or a fork of it, at {}{}, found none (without {}); run it in one, or name one with --dir. For a project of your own see relay/docs/new-projection.md",
                here.display(),
                if named.is_some() { "" } else { " or above it" },
                missing.join(", ")
            );
        };
        Ok(Self { root: root.to_owned() })
    }

    /// All that the new projection changes here.
    pub(super) fn with(&self, scaffold: &Scaffold<'_>) -> anyhow::Result<Plan> {
        let snake = scaffold.name.snake();
        let member = format!("lambdas/{snake}");
        let folder = self.root.join(&member);
        if folder.symlink_metadata().is_ok() {
            bail!(
                "expected {member} not to be there yet, found it; choose another name, or remove it and its lines in {MANIFEST} and {TEMPLATE}"
            );
        }
        self.is_free(snake)?;
        let manifest = self.read(MANIFEST)?;
        has_dependencies(&manifest)?;
        let template = self.read(TEMPLATE)?;
        let edited = [
            (MANIFEST, edit::manifest(&manifest, &member), manifest),
            (TEMPLATE, edit::template(&template, &scaffold.additions()), template),
        ];
        let mut changes = Vec::new();
        for (name, after, before) in edited {
            let after = after.with_context(|| format!("{name} cannot be changed"))?;
            if after != before {
                changes.push(Change { path: self.root.join(name), name, before, after });
            }
        }
        Ok(Plan { folder, name: member, files: scaffold.files()?, changes })
    }

    /// Whether no package that Cargo knows here has the name.
    fn is_free(&self, name: &str) -> anyhow::Result<()> {
        let Ok(lock) = std::fs::read_to_string(self.root.join("Cargo.lock")) else { return Ok(()) };
        let package = |line: &str| {
            let name = line.strip_prefix("name = \"")?.strip_suffix('"')?;
            Some(name.replace('-', "_"))
        };
        if lock.lines().filter_map(package).any(|package| package == name) {
            bail!(
                "expected a name that no package of Cargo.lock has, found {name}; choose another"
            );
        }
        Ok(())
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        std::fs::read_to_string(self.root.join(name)).with_context(|| format!("cannot read {name}"))
    }
}

fn has_dependencies(manifest: &str) -> anyhow::Result<()> {
    let manifest: toml::Table = manifest.parse().context("expected TOML in Cargo.toml")?;
    let dependencies = manifest.get("workspace").and_then(|w| w.get("dependencies"));
    let is_there = |name: &&str| dependencies.and_then(|d| d.get(name)).is_some();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        bail!(
            "expected workspace.dependencies in Cargo.toml to have all that a function needs, found no {}",
            missing.join(", ")
        );
    }
    Ok(())
}
