//! Text → documents: YAML and JSON, with the line of every field.
//!
//! Numbers such as `0644` are octal and `yes` is text that no boolean field takes, because that is how manifests for
//! Kubernetes are written and read. Each document is parsed for itself, so one bad document does not hide
//! what is wrong with the next.

use std::{collections::BTreeMap, fmt};

use keelson_core::manifest::document::{Document, field, item};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A text that is no YAML or JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}: {message}")]
pub struct Error {
    /// Counted from 1 within the file.
    pub document: usize,
    /// Counted from 1 within the file.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// How a text is cut into documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Documents are parted by `---` lines.
    Yaml,
    /// Values follow each other.
    Json,
}

/// The documents of a text; empty ones are left out but counted.
pub fn documents(text: &str, format: Format) -> Vec<Result<Document, Error>> {
    let parts = match format {
        Format::Yaml => split_yaml(text),
        Format::Json => match split_json(text) {
            Ok(parts) => parts,
            Err(error) => return vec![Err(error)],
        },
    };
    parts
        .into_iter()
        .enumerate()
        .filter_map(|(index, part)| part.parse(index + 1).transpose())
        .collect()
}

/// One document's text and how many lines of the file stand before it.
struct Part<'a> {
    text: &'a str,
    lines_before: u64,
}

/// A line that starts with `---` at the first column parts documents, wherever it stands.
fn split_yaml(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    let mut content = false;
    for (number, line) in (0_u64..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            // What stands before the first marker is a document only if it says something: comments often lead.
            if content {
                parts.push(Part {
                    text: &text[start..at],
                    lines_before: start_line,
                });
            }
            (start, start_line, content) = (at, number, true);
        } else {
            let trimmed = line.trim();
            content |= !trimmed.is_empty() && !trimmed.starts_with(['#', '%']);
        }
        at += line.len();
    }
    if content {
        parts.push(Part {
            text: &text[start..],
            lines_before: start_line,
        });
    }
    parts
}

fn split_json(text: &str) -> Result<Vec<Part<'_>>, Error> {
    let mut parts = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut start = 0;
    loop {
        let next = values.next();
        let end = values.byte_offset();
        match next {
            Some(Ok(_)) => {
                let lead = text[start..end].len() - text[start..end].trim_start().len();
                let lines_before = text[..start + lead].matches('\n').count() as u64;
                parts.push(Part {
                    text: &text[start + lead..end],
                    lines_before,
                });
                start = end;
            }
            Some(Err(error)) => {
                return Err(Error {
                    document: parts.len() + 1,
                    line: error.line() as u64,
                    message: error.to_string(),
                });
            }
            None => return Ok(parts),
        }
    }
}

impl Part<'_> {
    fn parse(&self, number: usize) -> Result<Option<Document>, Error> {
        let options = serde_saphyr::options! {
            legacy_octal_numbers: true,
            strict_booleans: true,
            with_snippet: false,
        };
        let node: Spanned<Node> =
            serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
                let line = error.location().map_or(0, |location| location.line());
                Error {
                    document: number,
                    line: self.lines_before + line.max(1),
                    message: error.without_snippet().to_string(),
                }
            })?;
        if matches!(node.value, Node::Scalar(Value::Null)) {
            return Ok(None);
        }
        let mut lines = BTreeMap::new();
        let line = self.lines_before + node.referenced.line().max(1);
        let value = flatten(node.value, String::new(), self.lines_before, &mut lines);
        Ok(Some(Document {
            number,
            line,
            value,
            lines,
        }))
    }
}

/// A value whose parts know where they stand.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn flatten(node: Node, path: String, before: u64, lines: &mut BTreeMap<String, u64>) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let values = items.into_iter().enumerate().map(|(index, node)| {
                let path = item(&path, index);
                lines.insert(path.clone(), before + node.referenced.line());
                flatten(node.value, path, before, lines)
            });
            Value::Array(values.collect())
        }
        Node::Map(fields) => {
            let mut map = Map::new();
            for (key, node) in fields {
                let path = field(&path, &key.value);
                lines.insert(path.clone(), before + key.referenced.line());
                map.insert(key.value, flatten(node.value, path, before, lines));
            }
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value)
            .map(|number| Node::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(next) = list.next_element()? {
            items.push(next);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = map.next_entry()? {
            fields.push(entry);
        }
        Ok(Node::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good(text: &str, format: Format) -> Vec<Document> {
        documents(text, format)
            .into_iter()
            .map(|document| document.expect("parses"))
            .collect()
    }

    #[test]
    fn documents_know_their_number_and_the_line_of_every_field() {
        let text = "# lead\n---\nkind: Pod\nmetadata:\n  name: a\n  labels: {a.b/c: x}\n---\n# empty\n---\n\nkind: Service\nspec:\n  ports:\n  - port: 80\n  - port: 81\n";
        let found = good(text, Format::Yaml);
        assert_eq!(found.iter().map(|d| d.number).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(
            found[0].value,
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"a.b/c": "x"}}})
        );
        assert_eq!(found[0].line, 3);
        assert_eq!(found[0].line_of("metadata.name"), 5);
        assert_eq!(found[0].line_of("metadata.labels[\"a.b/c\"]"), 6);
        assert_eq!(found[1].line_of("kind"), 11);
        assert_eq!(found[1].line_of("spec.ports[1].port"), 15);
        assert_eq!(found[1].line_of("spec.ports[1].name"), 15);
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next() {
        let text = "kind: Pod\n---\na: [1\n---\nb: }\n---\nkind: Service\n";
        let found = documents(text, Format::Yaml);
        assert_eq!(found.len(), 4);
        assert!(found[0].is_ok() && found[3].is_ok());
        let error = found[1].clone().expect_err("a list without its end");
        assert_eq!(error.document, 2);
        assert!((3..=4).contains(&error.line), "{error:?}");
        assert_eq!(found[2].clone().expect_err("a stray brace").line, 5);
    }

    #[test]
    fn a_marker_inside_a_text_block_is_not_one_unless_it_stands_in_the_first_column() {
        let found = good("data:\n  a: |\n    x\n    ---\n    y\n", Format::Yaml);
        assert_eq!(found[0].value, json!({"data": {"a": "x\n---\ny\n"}}));
    }

    #[test]
    fn scalars_are_read_as_manifests_mean_them() {
        let text = "a: 0644\nb: yes\nc: true\nd: \"80\"\ne: 1.5\nf: -3\ng: ~\nh: 64Mi\ni: 2026-01-01\nj: 18446744073709551615\n";
        assert_eq!(
            good(text, Format::Yaml)[0].value,
            json!({"a": 420, "b": "yes", "c": true, "d": "80", "e": 1.5, "f": -3, "g": null, "h": "64Mi",
                   "i": "2026-01-01", "j": 18_446_744_073_709_551_615_u64})
        );
    }

    #[test]
    fn anchors_and_merges_are_expanded() {
        let found = good("base: &b {x: 1}\nother:\n  <<: *b\n  y: 2\n", Format::Yaml);
        assert_eq!(found[0].value["other"], json!({"x": 1, "y": 2}));
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let error = documents("a: 1\nb: 2\na: 3\n", Format::Yaml)
            .remove(0)
            .expect_err("twice");
        assert_eq!(error.line, 3, "{error}");
    }

    #[test]
    fn json_values_may_follow_each_other() {
        let found = good(
            "{\"kind\": \"Pod\",\n\t\"a\": \"\\u00e9\\/\"}\n\n{\"kind\":\n \"Service\"}",
            Format::Json,
        );
        assert_eq!(found[0].value, json!({"kind": "Pod", "a": "é/"}));
        assert_eq!(found[0].line_of("a"), 2);
        assert_eq!((found[1].number, found[1].line), (2, 4));
        let error = documents("{\"a\": 1}\n{\"b\": }", Format::Json)
            .remove(0)
            .expect_err("no value");
        assert_eq!((error.document, error.line), (2, 2));
    }

    #[test]
    fn an_empty_text_has_no_documents() {
        assert!(documents("", Format::Yaml).is_empty());
        assert!(documents("# nothing\n---\n---\n", Format::Yaml).is_empty());
        assert!(documents(" \n", Format::Json).is_empty());
    }
}
