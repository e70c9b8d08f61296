//! `relay new projection` writes a function that builds, passes its test and stands in the
//! template; all of it or nothing.

use crate::harness::text;
use crate::readme::blocks_of;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PAGE: &str = include_str!("../relay/docs/new-projection.md");

/// A copy of this workspace, whose crates have another version: they are built beside those that
/// the other tests are made of, and share with them all that comes from elsewhere.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// In a place that is the same with each run, so that Cargo knows again what it has built.
    fn new(name: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let target = local::stack::binary("relay")?;
        let target = target.ancestors().nth(2).context("a target folder")?.to_owned();
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        let source = local::workspace();
        for entry in fs::read_dir(&source)? {
            let entry = entry?.file_name();
            if !["target", ".git"].contains(&entry.to_string_lossy().as_ref()) {
                // With the times of its files, by which Cargo tells what has changed.
                let copied =
                    Command::new("cp").arg("-a").arg(source.join(&entry)).arg(&root).status()?;
                assert!(copied.success(), "{entry:?}");
            }
        }
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        let version = concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "\"\n");
        assert_eq!(manifest.matches(version).count(), 1);
        let other = format!("\nversion = \"{}-copy\"\n", env!("CARGO_PKG_VERSION"));
        fs::write(root.join("Cargo.toml"), manifest.replacen(version, &other, 1))?;
        // The servers that infra/local/setup has installed.
        std::os::unix::fs::symlink(&target, root.join("target"))?;
        Ok(Self { root, target })
    }

    fn relay(&self, arguments: &[&str]) -> Result<Output> {
        let mut relay = Command::new(local::stack::binary("relay")?);
        // Not at the top, and with a configuration that is none: neither matters.
        let folder = self.root.join("infra/local");
        let relay = relay.current_dir(folder).env("RELAY_BYTES_IN_FLIGHT", "none");
        Ok(relay.args(["new", "projection"]).args(arguments).output()?)
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Output> {
        let mut cargo = Command::new("cargo");
        for (name, _) in std::env::vars_os() {
            let of_this_test = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "NEXTEST"];
            let bytes = name.as_encoded_bytes();
            if of_this_test.iter().any(|prefix| bytes.starts_with(prefix.as_bytes())) {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).args(arguments);
        Ok(cargo.output()?)
    }

    /// The files that a projection could touch, with their texts.
    fn state(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root.join("lambdas"), self.root.join("infra")];
        files.insert(
            self.root.join("Cargo.toml"),
            fs::read_to_string(self.root.join("Cargo.toml"))?,
        );
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read_to_string(&path)?;
                    files.insert(path, text);
                }
            }
        }
        Ok(files)
    }
}

/// The lines of a file that it had not before; it must have kept all that it had, in its order.
fn added<'a>(before: &str, after: &'a str) -> Vec<&'a str> {
    let mut old = before.lines().peekable();
    let added = after.lines().filter(|line| old.next_if_eq(line).is_none()).collect();
    assert_eq!(old.next(), None, "a line is gone");
    added
}

#[test]
fn a_new_projection_builds_passes_its_test_and_stands_in_the_template() -> Result<()> {
    let copy = Copy::new("new_projection")?;
    let before = copy.state()?;
    // As the manual has it: one of each mode; several types and aggregates, those by default, one.
    let lines = blocks_of(PAGE, "sh").into_iter().flat_map(str::lines);
    let asked = lines.filter_map(|line| line.strip_prefix("relay new projection "));
    let asked: Vec<Vec<&str>> = asked.map(|arguments| arguments.split(' ').collect()).collect();
    for arguments in &asked {
        let output = copy.relay(arguments)?;
        assert!(output.status.success(), "{}", text(&output));
        let next = format!("cargo test -p {}", arguments[0]);
        assert!(text(&output).contains(&next), "{}", text(&output));
    }
    let names: Vec<&str> = asked.iter().map(|arguments| arguments[0]).collect();
    assert_eq!(names, ["shipments_seen", "prices_now", "order_log"]);

    let after = copy.state()?;
    for (path, was) in &before {
        let added = added(was, &after[path]);
        match path.strip_prefix(&copy.root)?.to_str() {
            Some("Cargo.toml") => assert_eq!(
                added,
                [
                    "    \"lambdas/order_log\",",
                    "    \"lambdas/prices_now\",",
                    "    \"lambdas/shipments_seen\","
                ]
            ),
            Some("infra/template.yaml") => assert!(added.len() > 300),
            _ => assert_eq!(added, [""; 0], "{}", path.display()),
        }
    }

    // As tests/run does it: all packages and all features, so that what they share is built.
    // What is compiled for this test alone is not optimised: that would take most of its time.
    let own = ["consumer", "dsn", "envelope", "local", "s3"].iter().chain(&names);
    let quick = own.flat_map(|name| {
        ["opt-level", "debug"].map(|key| format!("--config=profile.dev.package.{name}.{key}=0"))
    });
    let quick: Vec<String> = quick.collect();
    let mut test: Vec<&str> = quick.iter().map(String::as_str).collect();
    test.extend(["test", "--offline", "--workspace", "--all-features"]);
    test.extend(names.iter().flat_map(|name| ["--test", *name]));
    let output = copy.cargo(&test)?;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output).matches("test result: ok. 1 passed").count(), 3, "{}", text(&output));
    for name in names {
        let binary = copy.target.join("debug").join(name);
        assert!(binary.is_file(), "{}", binary.display());
        let format = copy.cargo(&["fmt", "-p", name, "--check"])?;
        assert!(format.status.success(), "{}", text(&format));
    }

    let lint = local::workspace().join("target/python-lint/bin/cfn-lint");
    if lint.is_file() {
        let output = Command::new(lint).arg(copy.root.join("infra/template.yaml")).output()?;
        assert!(output.status.success(), "{}", text(&output));
    }
    Ok(())
}

#[test]
fn what_cannot_be_made_whole_is_not_begun() -> Result<()> {
    let copy = Copy::new("no_projection")?;
    let before = copy.state()?;
    let template = copy.root.join("infra/template.yaml");
    let refused = |arguments: &[&str], code: i32, said: &str| -> Result<()> {
        let output = copy.relay(arguments)?;
        let told = text(&output);
        assert!(output.status.code() == Some(code) && told.contains(said), "{arguments:?}: {told}");
        Ok(())
    };
    refused(&["order_summary"], 1, "lambdas/order_summary not to be there yet")?;
    refused(&["envelope"], 1, "no package of Cargo.lock has, found envelope")?;
    refused(&["undelivered"], 1, "expected no UndeliveredQueue there")?;
    refused(&["order_summary_dead"], 1, "${AWS::StackName}-order-summary-dead.fifo")?;
    refused(&["order_paid"], 1, "found OrderPaid twice")?;
    refused(&["Orders"], 2, "such as paid_orders, found \"Orders\"")?;
    refused(&["select"], 2, "a word of Postgres")?;
    refused(&["mine", "--events", "paid"], 2, "such as order.item_added, found \"paid\"")?;
    refused(&["mine", "--mode", "twice"], 2, "versioned, latest, once")?;
    refused(&["mine", "--dir", "/nowhere"], 1, "cannot use --dir /nowhere")?;
    refused(&["mine", "--dir", "."], 1, "expected a checkout of Relay")?;

    let shown = copy.relay(&["mine", "--dry-run"])?;
    let told = text(&shown);
    assert!(shown.status.success(), "{told}");
    for part in ["would make lambdas/mine/src/lib.rs", "      \"lambdas/mine\",", "    MineQueue:"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(copy.state()? == before, "something was written");

    // A mark that is gone is named, and the other files stay as they are.
    let whole = fs::read_to_string(&template)?;
    let mark = "  # relay new projection adds its outputs above.\n";
    fs::write(&template, whole.replace(mark, ""))?;
    let unmarked = copy.state()?;
    refused(&["mine"], 1, mark.trim())?;
    assert!(copy.state()? == unmarked, "something was written");
    fs::write(&template, whole)?;

    // Once it is there it is not made again.
    assert!(copy.relay(&["mine"])?.status.success());
    let made = copy.state()?;
    refused(&["mine"], 1, "lambdas/mine not to be there yet")?;
    assert!(copy.state()? == made, "something was written");
    Ok(())
}
