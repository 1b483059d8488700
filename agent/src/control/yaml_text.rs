//! Objects as YAML text.

use serde_json::Value;

/// Write a value as one YAML document.
pub fn yaml(value: &Value) -> Result<String, String> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| error.to_string())?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::{Format, documents};

    fn read_back(value: &Value) -> Value {
        let text = yaml(value).expect("writes");
        let mut found = documents(&text, Format::Yaml);
        assert_eq!(found.len(), 1, "{text}");
        found
            .remove(0)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
            .value
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one list, one text a line")]
    fn texts_that_look_like_something_else_stay_texts() {
        for text in [
            "yes",
            "no",
            "on",
            "off",
            "y",
            "n",
            "true",
            "null",
            "~",
            "",
            "0644",
            "0x1f",
            "0o17",
            "1e3",
            ".5",
            "1_000",
            "12:30:45",
            "2026-01-01",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "'a'",
            "\"a\"",
            "@a",
            "`a`",
            "%a",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "{}",
            "[]",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            " a",
            "a ",
            "\ta",
            "\n",
            "a\u{7}b",
            "---",
            "...",
            "? a",
            ": a",
            "<<",
            "=",
            "inf",
            ".inf",
            ".nan",
            "-",
            "ü€😀",
            "a\r\nb",
            "---\na",
            "x\n---\ny\n",
            "  lead\nrest",
        ] {
            let value = json!({ "a": { "b": [text, { "c": text }] } });
            assert_eq!(
                read_back(&value),
                value,
                "{text:?}:\n{}",
                yaml(&value).expect("writes")
            );
        }
    }

    #[test]
    fn it_looks_like_what_people_write() {
        let value = json!({"apiVersion": "v1", "metadata": {"labels": {}, "name": "a"}, "spec": {"ports": [{"port": 80}, {"port": 81}], "x": null}});
        let text = yaml(&value).expect("writes");
        assert_eq!(
            text,
            "apiVersion: v1\nmetadata:\n  labels: {}\n  name: a\nspec:\n  ports:\n  - port: 80\n  - port: 81\n  x: null\n"
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\n\t]{0,20}".prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z0-9./~ -]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            let value = json!({ "object": value });
            prop_assert_eq!(read_back(&value), value);
        }
    }
}
