//! All or nothing: a folder that is new, and files that are changed.
//!
//! Everything is first written beside its place, where most of what can go wrong does, and then
//! renamed into it; what was renamed before a failure is taken back.

use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

/// A file that is there and gets another text.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    /// As it is told.
    pub(super) name: &'static str,
    pub(super) before: String,
    pub(super) after: String,
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) folder: PathBuf,
    /// The folder as it is told.
    pub(super) name: String,
    /// Its files.
    pub(super) files: Vec<(String, String)>,
    pub(super) changes: Vec<Change>,
}

/// Removed when it is dropped, whatever has become of it.
struct Draft(PathBuf);

impl Draft {
    /// Beside the place, so that it can be renamed into it.
    fn of(place: &Path) -> Self {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        Self(place.with_file_name(format!(".{name}.new-{}", std::process::id())))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ =
            if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
    }
}

impl Plan {
    /// Writes all of it, or nothing.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let folder = Draft::of(&self.folder);
        for (path, text) in &self.files {
            let path = folder.0.join(path);
            path.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, text))
                .with_context(|| format!("cannot write into {}; nothing is changed", self.name))?;
        }
        let drafts: Vec<(&Change, PathBuf, Draft)> =
            self.changes.iter().map(Change::draft).collect::<anyhow::Result<_>>()?;
        // A folder that has come there meanwhile is not empty, and makes this fail.
        fs::rename(&folder.0, &self.folder)
            .with_context(|| format!("cannot make {}; nothing is changed", self.name))?;
        for (at, (change, place, draft)) in drafts.iter().enumerate() {
            let Err(error) = fs::rename(&draft.0, place) else { continue };
            let undone = fs::remove_dir_all(&self.folder);
            let undone = drafts.iter().take(at).fold(undone, |undone, (change, place, _)| {
                undone.and(fs::write(place, &change.before))
            });
            let state = match undone {
                Ok(()) => "nothing is changed".to_owned(),
                Err(error) => format!("and what was written before cannot be taken back: {error}"),
            };
            return Err(error).with_context(|| format!("cannot change {}; {state}", change.name));
        }
        Ok(())
    }

    /// What was done, a line for each file.
    pub(super) fn told(&self) -> String {
        let made = self.files.iter().map(|(path, _)| format!("made     {}/{path}\n", self.name));
        let changed = self.changes.iter().map(|change| format!("changed  {}\n", change.name));
        made.chain(changed).collect()
    }

    /// What would be written: new files whole, of others the lines that are added.
    pub(super) fn shown(&self) -> String {
        let mut shown = String::new();
        for (path, text) in &self.files {
            shown.push_str(&format!(
                "would make {}/{path}\n\n{}\n",
                self.name,
                indented(text.lines())
            ));
        }
        for Change { name, before, after, .. } in &self.changes {
            let added = added(before, after);
            shown.push_str(&format!("would add to {name}\n\n{}\n", indented(added.into_iter())));
        }
        shown
    }
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect()
}

/// The lines of `after` that `before` does not have at that place; nothing is ever taken out.
fn added<'a>(before: &str, after: &'a str) -> Vec<&'a str> {
    let mut old = before.lines().peekable();
    after.lines().filter(|line| old.next_if_eq(line).is_none()).collect()
}

impl Change {
    /// The new text beside the file, with the file's own permissions.
    fn draft(&self) -> anyhow::Result<(&Self, PathBuf, Draft)> {
        let failed = || format!("cannot change {}; nothing is changed", self.name);
        // Where it is a link, what it leads to is changed.
        let place = fs::canonicalize(&self.path).with_context(failed)?;
        let draft = Draft::of(&place);
        fs::write(&draft.0, &self.after).with_context(failed)?;
        let permissions = fs::metadata(&place).with_context(failed)?.permissions();
        fs::set_permissions(&draft.0, permissions).with_context(failed)?;
        Ok((self, place, draft))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files below a folder, hidden ones too, with their texts.
    fn all(folder: &Path) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match fs::read_to_string(&path) {
                Ok(text) => found.push((path, text)),
                Err(_) => found.extend(all(&path)),
            }
        }
        found.sort();
        found
    }

    fn plan(root: &Path, changed: [&'static str; 2]) -> Plan {
        let change = |name| Change {
            path: root.join(name),
            name,
            before: format!("{name} before\n"),
            after: format!("{name} before\nand more\n"),
        };
        let files = ["a", "src/b"].map(|path| (path.to_owned(), "new\n".to_owned()));
        Plan {
            folder: root.join("new"),
            name: "new".to_owned(),
            files: files.into(),
            changes: changed.map(change).into(),
        }
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(root.path().join(name), format!("{name} before\n")).unwrap();
        }
        root
    }

    #[test]
    fn all_of_it_is_written() {
        let root = root();
        let plan = plan(root.path(), ["one", "two"]);
        plan.write().unwrap();
        let texts: Vec<String> = all(root.path()).into_iter().map(|(_, text)| text).collect();
        let changed = ["one before\nand more\n", "two before\nand more\n"];
        assert_eq!(texts, [["new\n"; 2], changed].concat());
        assert_eq!(plan.told(), "made     new/a\nmade     new/src/b\nchanged  one\nchanged  two\n");
    }

    #[test]
    fn nothing_is_written_where_a_part_cannot_be() {
        // A file that is gone, a folder where the second file was, a folder that has come meanwhile.
        for breaking in [0, 1, 2] {
            let root = root();
            let plan = plan(root.path(), ["one", "two"]);
            match breaking {
                0 => fs::remove_file(root.path().join("two")).unwrap(),
                1 => {
                    fs::remove_file(root.path().join("two")).unwrap();
                    fs::create_dir_all(root.path().join("two/inside")).unwrap();
                }
                _ => {
                    fs::create_dir(root.path().join("new")).unwrap();
                    fs::write(root.path().join("new/theirs"), "theirs").unwrap();
                }
            }
            let before = all(root.path());
            let error = plan.write().unwrap_err().to_string();
            assert!(error.contains("nothing is changed"), "{error}");
            assert_eq!(all(root.path()), before);
            assert_eq!(root.path().join("new").exists(), breaking == 2);
        }
    }

    #[test]
    fn what_would_be_written_is_shown_and_of_a_changed_file_only_what_is_added() {
        let root = root();
        let shown = plan(root.path(), ["one", "two"]).shown();
        assert!(shown.contains("would make new/src/b\n\n  new\n"), "{shown}");
        assert!(
            shown.contains("would add to one\n\n  and more\n") && !shown.contains("before"),
            "{shown}"
        );
    }
}
