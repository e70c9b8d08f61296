//! The files of a new projection, and what it adds to the template. PURE.
//!
//! Knows: the folder `relay/scaffold`, whose `__words__` it fills in. Must not know: where they go.

use super::Mode;
use super::event_type::{EventType, EventTypes};
use super::name::Name;
use anyhow::bail;

const MANIFEST: &str = include_str!("../../../scaffold/projection/Cargo.toml");
const MAIN: &str = include_str!("../../../scaffold/projection/main.rs");
const FUNCTION: &str = include_str!("../../../scaffold/projection/function.yaml");

/// What the generated `lib.rs` has of its own or takes from elsewhere.
const TAKEN: [&str; 8] =
    ["Deserialize", "Event", "HandlerError", "Happened", "Mode", "Projection", "Tx", "Typed"];

/// The width that rustfmt keeps, and where the rows of the test begin.
const WIDTH: usize = 100;
const ROWS_AT: usize = 12;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaffold<'a> {
    pub(super) name: &'a Name,
    pub(super) events: &'a EventTypes,
    pub(super) mode: Mode,
}

/// An event that the test gives: which type, to which aggregate, its version.
type Given<'a> = (&'a EventType, String, i64);

impl Scaffold<'_> {
    /// The files, by their paths in the new folder.
    pub(super) fn files(&self) -> anyhow::Result<Vec<(String, String)>> {
        self.is_unambiguous()?;
        let (lib, table, test) = self.of_the_mode();
        let snake = self.name.snake();
        let files = [
            ("Cargo.toml".to_owned(), MANIFEST),
            ("src/lib.rs".to_owned(), lib),
            ("src/main.rs".to_owned(), MAIN),
            (format!("{snake}.sql"), table),
            (format!("tests/{snake}.rs"), test),
        ];
        Ok(files.map(|(path, text)| (path, self.filled(text))).into())
    }

    /// What the template gets: each mark with what goes above it.
    pub(super) fn additions(&self) -> Vec<(String, String)> {
        let mut additions = Vec::new();
        let mut above = String::new();
        for line in self.filled(FUNCTION).lines() {
            if super::edit::is_mark(line) {
                additions.push((line.trim().to_owned(), std::mem::take(&mut above)));
            } else {
                above.push_str(line);
                above.push('\n');
            }
        }
        additions
    }

    fn of_the_mode(&self) -> (&'static str, &'static str, &'static str) {
        match self.mode {
            Mode::Versioned => (
                include_str!("../../../scaffold/projection/versioned/lib.rs"),
                include_str!("../../../scaffold/projection/versioned/table.sql"),
                include_str!("../../../scaffold/projection/versioned/test.rs"),
            ),
            Mode::Latest => (
                include_str!("../../../scaffold/projection/latest/lib.rs"),
                include_str!("../../../scaffold/projection/latest/table.sql"),
                include_str!("../../../scaffold/projection/latest/test.rs"),
            ),
            Mode::Once => (
                include_str!("../../../scaffold/projection/once/lib.rs"),
                include_str!("../../../scaffold/projection/once/table.sql"),
                include_str!("../../../scaffold/projection/once/test.rs"),
            ),
        }
    }

    /// Refuses names of which the generated code would have two.
    fn is_unambiguous(&self) -> anyhow::Result<()> {
        let own = self.name.pascal();
        for kind in self.events.iter() {
            let name = kind.pascal();
            if name == own || TAKEN.contains(&name.as_str()) {
                bail!(
                    "expected event types and a name that give different Rust names, found {name} twice; choose another name, or leave {} out of --events and add it by hand",
                    kind.as_str()
                );
            }
        }
        if TAKEN.contains(&own.as_str()) {
            bail!(
                "expected a name whose type is not one that handlers use, such as paid_{}, found {own}",
                self.name.snake()
            );
        }
        Ok(())
    }

    fn filled(&self, text: &str) -> String {
        // Events first: their texts hold no other word.
        text.replace("__variants__", &self.variants())
            .replace("__payloads__", &self.payloads())
            .replace("__happened__", &self.happened())
            .replace("__given__", &self.given_events())
            .replace("__rows__", &self.rows())
            .replace("__filter__", &self.filter())
            .replace("__name__", self.name.snake())
            .replace("__Name__", &self.name.pascal())
            .replace("__kebab__", &self.name.kebab())
    }

    fn variants(&self) -> String {
        let variant = |kind: &EventType| {
            let (text, name) = (kind.as_str(), kind.pascal());
            format!("/// `{text}`\n        \"{text}\" => {name}({name}),")
        };
        joined(self.events.iter().map(variant), "\n        ")
    }

    fn payloads(&self) -> String {
        let payload = |kind: &EventType| {
            format!(
                "/// What is read of the data of `{}`: add fields as you need them.\n#[derive(Debug, Deserialize)]\npub struct {} {{}}",
                kind.as_str(),
                kind.pascal()
            )
        };
        joined(self.events.iter().map(payload), "\n\n")
    }

    fn happened(&self) -> String {
        let mut kinds = self.events.iter();
        if let (Some(only), None) = (kinds.next(), kinds.next()) {
            let (name, what) = (only.pascal(), only.what());
            return format!(
                "let Happened::{name}({name} {{}}) = event;\n        let happened = \"{what}\";"
            );
        }
        let arm = |kind: &EventType| {
            let (name, what) = (kind.pascal(), kind.what());
            format!("            Happened::{name}({name} {{}}) => \"{what}\",\n")
        };
        let arms: String = self.events.iter().map(arm).collect();
        format!("let happened = match event {{\n{arms}        }};")
    }

    /// Of each aggregate type one to which all happens, and others to which only the first does.
    fn given(&self) -> Vec<Given<'_>> {
        let mut given = Vec::new();
        for aggregate in self.events.aggregates() {
            let kinds: Vec<_> =
                self.events.iter().filter(|kind| kind.aggregate() == aggregate).collect();
            let whole =
                (1..).zip(&kinds).map(|(version, kind)| (*kind, format!("{aggregate}-1"), version));
            given.extend(whole);
            let first = kinds.iter().take(1);
            given.extend(
                first.flat_map(|kind| {
                    [2, 3].map(|number| (*kind, format!("{aggregate}-{number}"), 1))
                }),
            );
        }
        given
    }

    fn given_events(&self) -> String {
        let event = |(kind, id, version): &Given<'_>| {
            let (text, aggregate) = (kind.as_str(), kind.aggregate());
            format!("event(\"{text}\", \"{aggregate}\", \"{id}\", {version}, json!({{}})),")
        };
        joined(self.given().iter().map(event), "\n            ")
    }

    /// The rows that must stand there in the end, as rustfmt writes them.
    fn rows(&self) -> String {
        let given = self.given();
        let mut rows: Vec<String> = Vec::new();
        for (at, (kind, id, version)) in given.iter().enumerate() {
            let last = given.iter().skip(at + 1).all(|(_, later, _)| later != id);
            let what = kind.what();
            match self.mode {
                Mode::Once => rows.push(format!("&[\"{id}\", \"{what}\"]")),
                Mode::Latest if last => {
                    rows.push(format!("&[\"{id}\", \"{what}\", \"{version}\"]"));
                }
                Mode::Versioned if last => {
                    rows.push(format!("&[\"{id}\", \"{what}\", \"{version}\", \"{version}\"]"));
                }
                Mode::Latest | Mode::Versioned => {}
            }
        }
        if self.mode != Mode::Once {
            rows.sort();
        }
        let line = format!("&[{}]", rows.join(", "));
        if ROWS_AT + line.len() < WIDTH {
            return line;
        }
        format!("&[\n                {},\n            ]", rows.join(",\n                "))
    }

    /// What the queue gets. In `Versioned` that is every version of an aggregate, of whatever
    /// type: what is left out would be waited for.
    fn filter(&self) -> String {
        let aggregates = format!("aggregate_type: [{}]", self.events.aggregates().join(", "));
        if self.mode == Mode::Versioned {
            return format!(
                "# Events of every type: a version that is left out would be waited for.\n        {aggregates}"
            );
        }
        let types = joined(self.events.iter().map(|kind| kind.as_str().to_owned()), ", ");
        format!("{aggregates}\n        event_type: [{types}]")
    }
}

fn joined(texts: impl Iterator<Item = String>, between: &str) -> String {
    texts.collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str, events: &str, mode: Mode) -> anyhow::Result<String> {
        let (name, events) = (name.parse().unwrap(), events.parse().unwrap());
        let files = Scaffold { name: &name, events: &events, mode }.files()?;
        Ok(files.into_iter().map(|(path, text)| format!("== {path}\n{text}")).collect())
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        let (name, events) = ("paid".parse().unwrap(), "order.paid".parse().unwrap());
        for mode in [Mode::Versioned, Mode::Latest, Mode::Once] {
            let scaffold = Scaffold { name: &name, events: &events, mode };
            let all: String = scaffold.files().unwrap().into_iter().map(|(_, text)| text).collect();
            assert!(!all.contains("__"), "{all}");
            let additions = scaffold.additions();
            assert_eq!(additions.len(), 5);
            for (_, text) in additions {
                assert!(
                    !text.contains("__") && text.ends_with('\n') && text.contains("Paid"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_versioned_projection_gets_every_event_of_its_aggregates() {
        let (name, events) = ("paid".parse().unwrap(), "order.paid,parcel.sent".parse().unwrap());
        let filter = |mode| Scaffold { name: &name, events: &events, mode }.filter();
        let all = filter(Mode::Versioned);
        assert!(all.ends_with("aggregate_type: [order, parcel]"), "{all}");
        assert_eq!(
            filter(Mode::Once),
            "aggregate_type: [order, parcel]\n        event_type: [order.paid, parcel.sent]"
        );
        assert_eq!(filter(Mode::Latest), filter(Mode::Once));
    }

    #[test]
    fn names_that_would_meet_in_the_code_are_refused() {
        for (name, events) in
            [("order_paid", "order.paid"), ("paid", "handler.error"), ("projection", "order.paid")]
        {
            assert!(files(name, events, Mode::Once).is_err(), "{name} {events}");
        }
        assert!(files("paid", "order.paid", Mode::Once).is_ok());
    }
}
