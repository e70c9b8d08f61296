//! AWS's rules for a batch, each with AWS's code. Pure.
//!
//! Sources: the service models of SNS and SQS, and their quotas pages.

/// An entry as a client sent it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// Its id within the batch.
    pub id: String,
    /// The body.
    pub body: String,
    /// The message group.
    pub group: Option<String>,
    /// The deduplication id.
    pub deduplication: Option<String>,
    /// Name and string value of each attribute.
    pub attributes: Vec<(String, String)>,
    /// The names of the attributes that are numbers; the others are strings.
    pub numbers: Vec<String>,
}

impl Entry {
    /// Its size as AWS counts it: the body, and each attribute's name, type and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(n, v)| n.len() + "String".len() + v.len());
        self.body.len() + attributes.sum::<usize>()
    }
}

/// A refusal in AWS's words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The code.
    pub code: &'static str,
    /// The message.
    pub message: String,
}

fn refuse<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// What the whole batch must be; a refusal is for all of it.
///
/// # Errors
/// The first rule that is broken.
pub fn batch(entries: &[Entry], limit: usize) -> Result<(), Refusal> {
    if entries.is_empty() {
        return refuse("EmptyBatchRequest", "The batch request doesn't contain any entries.");
    }
    if entries.len() > 10 {
        return refuse(
            "TooManyEntriesInBatchRequest",
            "The batch request contains more entries than permissible.",
        );
    }
    for (at, entry) in entries.iter().enumerate() {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=80).contains(&entry.id.len()) || !entry.id.bytes().all(legal) {
            return refuse(
                "InvalidBatchEntryId",
                "The Id of a batch entry in a batch request doesn't abide by the specification.",
            );
        }
        if entries[..at].iter().any(|other| other.id == entry.id) {
            return refuse(
                "BatchEntryIdsNotDistinct",
                "Two or more batch entries in the request have the same Id.",
            );
        }
    }
    let bytes: usize = entries.iter().map(Entry::bytes).sum();
    if bytes > limit {
        return refuse(
            "BatchRequestTooLong",
            format!(
                "Batch requests cannot be longer than {limit} bytes. You have sent {bytes} bytes."
            ),
        );
    }
    Ok(())
}

/// What one entry must be; a refusal is for it alone.
///
/// # Errors
/// The first rule that is broken.
pub fn entry(entry: &Entry, fifo: bool) -> Result<(), Refusal> {
    if entry.body.is_empty() {
        return refuse("InvalidParameter", "Invalid parameter: Empty message");
    }
    let xml = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if !entry.body.chars().all(xml) {
        return refuse(
            "InvalidMessageContents",
            "The message contains characters outside the allowed set.",
        );
    }
    if entry.attributes.len() > 10 {
        return refuse(
            "InvalidParameterValue",
            "Number of message attributes exceeds the allowed maximum [10].",
        );
    }
    for (name, value) in &entry.attributes {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty()
            || name.len() > 256
            || !name.bytes().all(legal)
            || value.is_empty()
            || !value.chars().all(xml)
        {
            return refuse(
                "InvalidParameterValue",
                format!(
                    "The message attribute '{name}' must contain a non-empty legal name and value."
                ),
            );
        }
    }
    let legal_id =
        |id: &str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    for (name, id) in
        [("MessageGroupId", &entry.group), ("MessageDeduplicationId", &entry.deduplication)]
    {
        match id {
            Some(id) if !legal_id(id) => {
                return refuse("InvalidParameter", format!("Invalid parameter: {name}"));
            }
            None if fifo => {
                return refuse(
                    "InvalidParameter",
                    format!(
                        "Invalid parameter: The {name} parameter is required for FIFO topics and queues"
                    ),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(id: &str) -> Entry {
        Entry {
            id: id.to_owned(),
            body: "b".to_owned(),
            group: Some("g".to_owned()),
            deduplication: Some("d".to_owned()),
            attributes: vec![("n".to_owned(), "v".to_owned())],
            numbers: Vec::new(),
        }
    }

    #[test]
    fn each_rule_of_a_batch_is_enforced() {
        let code = |entries: &[Entry]| batch(entries, 100).unwrap_err().code;
        assert_eq!(batch(&[good("a"), good("b")], 100), Ok(()));
        assert_eq!(code(&[]), "EmptyBatchRequest");
        assert_eq!(
            code(&(0..11).map(|n| good(&n.to_string())).collect::<Vec<_>>()),
            "TooManyEntriesInBatchRequest"
        );
        assert_eq!(code(&[good("a"), good("a")]), "BatchEntryIdsNotDistinct");
        assert_eq!(code(&[good("a b")]), "InvalidBatchEntryId");
        assert_eq!(code(&[Entry { body: "x".repeat(100), ..good("a") }]), "BatchRequestTooLong");
    }

    #[test]
    fn each_rule_of_an_entry_is_enforced() {
        assert_eq!(entry(&good("a"), true), Ok(()));
        let code = |e: Entry| entry(&e, true).unwrap_err().code;
        assert_eq!(
            code(Entry { body: "\u{ffff}".to_owned(), ..good("a") }),
            "InvalidMessageContents"
        );
        assert_eq!(code(Entry { body: String::new(), ..good("a") }), "InvalidParameter");
        assert_eq!(code(Entry { group: None, ..good("a") }), "InvalidParameter");
        assert_eq!(code(Entry { group: Some("a b".to_owned()), ..good("a") }), "InvalidParameter");
        assert_eq!(
            code(Entry { deduplication: Some("d".repeat(129)), ..good("a") }),
            "InvalidParameter"
        );
        assert_eq!(
            code(Entry { attributes: vec![("n".to_owned(), String::new())], ..good("a") }),
            "InvalidParameterValue"
        );
        let many = (0..11).map(|n| (format!("n{n}"), "v".to_owned())).collect();
        assert_eq!(code(Entry { attributes: many, ..good("a") }), "InvalidParameterValue");
        assert_eq!(entry(&Entry { group: None, deduplication: None, ..good("a") }, false), Ok(()));
    }
}
