//! A document of a file: its value, and on which line each field stands.

use std::collections::BTreeMap;

use serde_json::Value;

/// One document of a file, as the text gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Counted from 1 within the file.
    pub number: usize,
    /// Line of the file on which the document's content begins, counted from 1.
    pub line: u64,
    /// What it says.
    pub value: Value,
    /// Line of each field, by path (`spec.containers[0].image`).
    pub lines: BTreeMap<String, u64>,
}

impl Document {
    /// The line of a field, or of the nearest field around it that the text has.
    pub fn line_of(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match parent(path) {
                Some(shorter) => path = shorter,
                None => return self.line,
            }
        }
    }
}

/// The path of a field below `path`. Keys that are no plain words (labels with dots) are put in brackets and quotes.
pub fn field(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// The path of an item of the list at `path`.
pub fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The path one step up; `None` at the top.
fn parent(path: &str) -> Option<&str> {
    // A quoted key may itself hold dots and brackets; its closing quote tells.
    if let Some(inner) = path.strip_suffix("\"]") {
        return inner.rfind("[\"").map(|at| &inner[..at]);
    }
    path.rfind(['.', '[']).map(|at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_the_text_lacks_is_placed_at_the_nearest_field_around_it() {
        let lines = [
            ("spec", 4),
            ("spec.containers", 5),
            ("spec.containers[0]", 6),
            ("metadata[\"a.b/c\"]", 9),
        ];
        let document = Document {
            number: 1,
            line: 2,
            value: Value::Null,
            lines: lines
                .into_iter()
                .map(|(path, line)| (path.to_owned(), line))
                .collect(),
        };
        assert_eq!(document.line_of("spec.containers[0].image"), 6);
        assert_eq!(document.line_of("spec.containers[3].image"), 5);
        assert_eq!(document.line_of("spec.other"), 4);
        assert_eq!(document.line_of("metadata[\"a.b/c\"].x"), 9);
        assert_eq!(document.line_of("metadata[\"q.r\"]"), 2);
        assert_eq!(document.line_of(""), 2);
    }

    #[test]
    fn keys_with_dots_are_quoted() {
        assert_eq!(field("metadata.labels", "app"), "metadata.labels.app");
        assert_eq!(field("metadata.labels", "a.b/c"), "metadata.labels[\"a.b/c\"]");
        assert_eq!(item(&field("", "items"), 2), "items[2]");
    }
}
