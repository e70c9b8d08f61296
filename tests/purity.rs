//! The boundaries that Cargo can enforce: what no crate may ever depend on.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use std::collections::HashSet;

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .exec()
        .unwrap()
}

/// The names of all that a package needs at run time, through others too.
fn needs(metadata: &Metadata, name: &str) -> HashSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let package = metadata.packages.iter().find(|p| p.name.as_str() == name).unwrap();
    let mut seen: HashSet<&PackageId> = HashSet::new();
    let mut next = vec![&package.id];
    while let Some(id) = next.pop() {
        let node = resolve.nodes.iter().find(|node| &node.id == id).unwrap();
        let normal = node
            .deps
            .iter()
            .filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
        next.extend(normal.map(|dep| &dep.pkg).filter(|id| seen.insert(id)));
    }
    seen.iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn the_pure_crates_know_no_runtime_and_no_network() {
    let metadata = metadata();
    for name in ["pgoutput", "envelope"] {
        for needed in needs(&metadata, name) {
            let impure = ["tokio", "rustls", "hyper", "mio", "socket2"].contains(&needed.as_str())
                || needed.starts_with("aws-");
            assert!(!impure, "{name} needs {needed}");
        }
    }
}

#[test]
fn the_consumers_core_does_without_the_aws_sdk() {
    let metadata = metadata();
    let consumer = metadata.packages.iter().find(|p| p.name.as_str() == "consumer").unwrap();
    for dependency in consumer.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
        let sdk = dependency.name.starts_with("aws-") || dependency.name == "s3";
        assert!(
            !sdk || dependency.optional,
            "consumer needs {} without the features poll, s3 and iam",
            dependency.name
        );
    }
    let with_sdk = ["poll", "s3", "iam"];
    assert!(consumer.features["default"].iter().all(|on| !with_sdk.contains(&on.as_str())));
}

#[test]
fn no_test_crate_is_in_the_product() {
    let metadata = metadata();
    for name in ["relay", "consumer", "order_summary", "customer_orders", "notifier"] {
        for needed in needs(&metadata, name) {
            assert!(
                !["proptest", "tempfile", "local", "tests"].contains(&needed.as_str()),
                "{name} needs {needed}"
            );
        }
    }
}

/// A program without tests of its own is not built a second time as their harness.
#[test]
fn what_is_not_built_with_its_tests_has_none() {
    let metadata = metadata();
    let mut looked_at = 0;
    for package in metadata.workspace_packages() {
        let has_library = package.targets.iter().any(cargo_metadata::Target::is_lib);
        for program in package.targets.iter().filter(|target| target.is_bin() && !target.test) {
            let source = program.src_path.as_std_path();
            let files = if has_library {
                vec![source.to_owned()]
            } else {
                let folder = std::fs::read_dir(source.parent().unwrap()).unwrap();
                folder.map(|entry| entry.unwrap().path()).collect()
            };
            for file in files {
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(!text.contains("#[cfg(test)]"), "{} is never run", file.display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 10);
}
