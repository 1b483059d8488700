//! Label selectors as users write them: `app=web,tier in (a,b),!old`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use keelson_core::workload::selector;

/// A selector understood; the empty text means every object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector(LabelSelector);

impl Selector {
    /// Understand a text; the error says which part and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut conditions = Vec::new();
        for part in split(text) {
            if part.trim().is_empty() && !text.trim().is_empty() {
                return Err(format!("label selector {text:?}: a condition is empty"));
            }
            if !part.trim().is_empty() {
                let condition = condition(part.trim()).map_err(|why| {
                    format!(
                        "label selector {text:?}: {why}; write conditions such as app=web, app!=web, app in (a,b), \
                         app notin (a,b), app or !app"
                    )
                })?;
                conditions.push(condition);
            }
        }
        Ok(Self(LabelSelector {
            match_labels: None,
            match_expressions: Some(conditions),
        }))
    }

    /// The labels that this object selects by (a Deployment's or Service's own selector).
    pub fn of(selector: &LabelSelector) -> Self {
        Self(selector.clone())
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: Option<&selector::Labels>) -> bool {
        selector::matches(&self.0, labels.unwrap_or(&selector::Labels::new()))
    }
}

/// Parts between commas, except for commas in parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn condition(part: &str) -> Result<LabelSelectorRequirement, String> {
    let make = |key: &str, operator: &str, values: Vec<&str>| {
        let key = key.trim();
        if !is_key(key) {
            return Err(format!("{key:?} is not a label's name"));
        }
        if let Some(bad) = values.iter().find(|value| !is_value(value)) {
            return Err(format!("{bad:?} is not a label's value"));
        }
        Ok(LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then(|| values.into_iter().map(str::to_owned).collect()),
        })
    };
    if let Some((head, list)) = part.split_once('(') {
        let list = list
            .strip_suffix(')')
            .ok_or_else(|| format!("{part:?} lacks its closing parenthesis"))?;
        let values: Vec<&str> = list.split(',').map(str::trim).collect();
        return match head
            .trim_end()
            .rsplit_once(char::is_whitespace)
            .map(|(key, word)| (key, word.to_ascii_lowercase()))
        {
            Some((key, word)) if word == "in" => make(key, "In", values),
            Some((key, word)) if word == "notin" => make(key, "NotIn", values),
            _ => Err(format!("{part:?} has a list but neither \"in\" nor \"notin\"")),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return make(key, "NotIn", vec![value.trim()]);
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return make(key, "In", vec![value.trim()]);
    }
    match part.strip_prefix('!') {
        Some(key) => make(key, "DoesNotExist", Vec::new()),
        None => make(part, "Exists", Vec::new()),
    }
}

fn is_key(key: &str) -> bool {
    let name = key.split_once('/').map_or(key, |(_, name)| name);
    !name.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && key.matches('/').count() <= 1
}

fn is_value(value: &str) -> bool {
    value.len() <= 63
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_mean_what_kubectl_users_mean() {
        let labels = [("app", "web"), ("tier", "front"), ("a.b/c", "1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("gone!=web", true),
            ("app in (web, db),tier", true),
            ("app in (db)", false),
            ("app notin (db,cache)", true),
            ("app notin (web)", false),
            ("app", true),
            ("!app", false),
            ("!gone", true),
            ("a.b/c=1", true),
            ("app=", false),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.matches(Some(&labels)), expected, "{text:?}");
        }
        assert!(Selector::parse("!app").expect("fine").matches(None));
    }

    #[test]
    fn what_is_no_condition_is_refused_by_its_words() {
        for (text, expected) in [
            ("=web", "\"\" is not a label's name"),
            ("app=we b", "\"we b\" is not a label's value"),
            ("app in (a", "closing parenthesis"),
            ("app among (a)", "neither"),
            ("a/b/c", "\"a/b/c\""),
            ("app=web,,x", "a condition is empty"),
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
