//! Additions to files that people keep: what stands there stays as it is. PURE.

use anyhow::{Context, bail};
use toml_edit::{Array, DocumentMut, Item, Value};

/// What the lines begin with above which something is added.
const MARK: &str = "# relay new projection adds its ";

/// Whether a line of the template marks a place.
pub(super) fn is_mark(line: &str) -> bool {
    line.trim_start().starts_with(MARK)
}

/// The template with each text above its mark.
pub(super) fn template(text: &str, additions: &[(String, String)]) -> anyhow::Result<String> {
    let mut edited = text.to_owned();
    for (mark, addition) in additions {
        if let Some(id) = ids(addition).find(|id| ids(text).any(|other| &other == id)) {
            bail!("expected no {id} there, found one; choose another name for the projection");
        }
        if let Some(name) = names(addition).find(|name| names(text).any(|other| &other == name)) {
            bail!(
                "expected nothing of the name {name} there, found it; choose another name for the projection"
            );
        }
        let places: Vec<usize> =
            starts(&edited).filter(|(_, l)| l.trim() == mark).map(|(at, _)| at).collect();
        let [at] = places[..] else {
            bail!(
                "expected the line `{mark}` once, found it {} times; put it back, as the template of this version has it",
                places.len()
            );
        };
        edited.insert_str(at, addition);
    }
    Ok(edited)
}

/// Each line with where it starts.
fn starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |next, line| {
        let at = *next;
        *next += line.len();
        Some((at, line))
    })
}

/// The names at the second level: of parameters, conditions, resources, outputs.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    let id = |line: &str| -> Option<usize> {
        let rest = line.strip_prefix("  ")?;
        let end = rest.find(':')?;
        let is_id = end > 0 && rest.bytes().take(end).all(|b| b.is_ascii_alphanumeric());
        is_id.then_some(end + 2)
    };
    text.lines().filter_map(move |line| line.get(2..id(line)?))
}

/// What is called after the stack: queues, functions.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once(": ")?;
        let names = ["QueueName", "TopicName", "FunctionName"].contains(&key);
        value.strip_prefix("!Sub ").filter(|_| names)
    })
}

/// `Cargo.toml` with one more member.
pub(super) fn manifest(text: &str, member: &str) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse().context("expected TOML, found something else")?;
    let members = document
        .get_mut("workspace")
        .and_then(|workspace| workspace.get_mut("members"))
        .and_then(Item::as_array_mut)
        .context("expected a list workspace.members, found none")?;
    if members.iter().any(|item| item.as_str() == Some(member)) {
        bail!("expected {member} not to be a member yet, found it among workspace.members");
    }
    let takes_all = |pattern: &str| {
        let folder = pattern.strip_suffix("/*");
        folder.is_some_and(|folder| member.rsplit_once('/').is_some_and(|(of, _)| of == folder))
    };
    if members.iter().filter_map(Value::as_str).any(takes_all) {
        return Ok(text.to_owned());
    }
    add(members, member);
    Ok(document.to_string())
}

/// Adds it beside its neighbours: before the first of the same folder that comes after it in the
/// alphabet, or after the last of them, or at the end.
fn add(members: &mut Array, member: &str) {
    let folder = member.split_inclusive('/').next().unwrap_or(member);
    let neighbour = |item: &str| item.starts_with(folder);
    let names: Vec<&str> = members.iter().map(|item| item.as_str().unwrap_or_default()).collect();
    let later = names.iter().position(|item| neighbour(item) && *item > member);
    let last = names.iter().rposition(|item| neighbour(item)).map(|at| at + 1);
    let at = later.or(last).unwrap_or(names.len());
    // Indented as the one before it, or the one whose place it takes.
    let beside = members.get(at.saturating_sub(1)).or_else(|| members.get(at));
    let indent = beside.and_then(|item| item.decor().prefix()?.as_str()).unwrap_or_default();
    let indent =
        indent.rsplit_once('\n').map_or(String::new(), |(_, spaces)| format!("\n{spaces}"));
    let indent = if indent.is_empty() && at > 0 { " ".to_owned() } else { indent };
    members.insert_formatted(at, Value::from(member).decorated(indent, ""));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(list: &str, member: &str) -> String {
        manifest(&format!("# Kept.\n[workspace]\nmembers = {list} # Kept too.\n"), member).unwrap()
    }

    #[test]
    fn a_member_goes_beside_its_neighbours_and_all_else_stays() {
        let list = "[\n    \"relay\", # the binary\n    \"lambdas/a\",\n    # the last\n    \"lambdas/c\",\n    \"tests\",\n]";
        for (member, before) in
            [("lambdas/b", "\n    # the last"), ("lambdas/d", "\n    \"tests\"")]
        {
            let edited = added(list, member);
            let line = format!("\n    \"{member}\",");
            assert_eq!(
                edited.replacen(&line, "", 1),
                added(list, "x").replacen("\n    \"x\",", "", 1)
            );
            assert!(edited.contains(&line) && edited.contains(before), "{edited}");
        }
        assert!(
            added("[\"lambdas/a\", \"lambdas/c\"]", "lambdas/b")
                .contains("[\"lambdas/a\", \"lambdas/b\", \"lambdas/c\"]")
        );
        assert!(added("[]", "lambdas/b").contains("[\"lambdas/b\"]"));
        assert!(!added("[\"lambdas/*\"]", "lambdas/b").contains("lambdas/b"));
    }

    #[test]
    fn what_is_there_already_is_refused() {
        let twice = manifest("[workspace]\nmembers = [\"lambdas/a\"]", "lambdas/a").unwrap_err();
        assert!(twice.to_string().contains("not to be a member yet"));
        assert!(
            manifest("[package]", "lambdas/a")
                .unwrap_err()
                .to_string()
                .contains("workspace.members")
        );
        assert!(manifest("[", "lambdas/a").is_err());
    }

    const TEMPLATE: &str = "Parameters:\n  # relay new projection adds its parameter above.\nResources:\n  # Kept.\n  Topic:\n    TopicName: !Sub ${AWS::StackName}-events.fifo\n  # relay new projection adds its resources above.\n";

    fn addition(place: &str, text: &str) -> (String, String) {
        (format!("{MARK}{place} above."), text.to_owned())
    }

    #[test]
    fn what_is_added_goes_above_its_mark_and_all_else_stays() {
        let additions =
            [addition("parameter", "  A:\n"), addition("resources", "  B:\n    C: d\n")];
        let edited = template(TEMPLATE, &additions).unwrap();
        let expected = TEMPLATE
            .replace(
                "  # relay new projection adds its parameter",
                "  A:\n  # relay new projection adds its parameter",
            )
            .replace(
                "  # relay new projection adds its resources",
                "  B:\n    C: d\n  # relay new projection adds its resources",
            );
        assert_eq!(edited, expected);
    }

    #[test]
    fn a_template_without_its_marks_or_with_the_name_in_use_is_refused() {
        for (addition, said) in [
            (addition("outputs", "  A:\n"), "found it 0 times"),
            (addition("parameter", "  Topic:\n"), "expected no Topic there"),
            (
                addition("resources", "  A:\n    QueueName: !Sub ${AWS::StackName}-events.fifo\n"),
                "-events.fifo",
            ),
        ] {
            let error = template(TEMPLATE, &[addition]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let twice = TEMPLATE.repeat(2);
        let error = template(&twice, &[addition("parameter", "  A:\n")]).unwrap_err().to_string();
        assert!(error.contains("found it 2 times"), "{error}");
    }
}
