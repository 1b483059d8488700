//! Which labels a selector means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether all of the selector's conditions hold. A selector without conditions means everything.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|one| {
            let value = labels.get(&one.key);
            let listed = value.is_some_and(|value| one.values.iter().flatten().any(|other| other == value));
            match one.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // Validation refuses others; until then nothing must be taken for a match.
                _ => false,
            }
        })
}

/// What is wrong with a selector: field below it and message.
pub fn faults(selector: &LabelSelector) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (index, one) in selector.match_expressions.iter().flatten().enumerate() {
        let values = one.values.as_deref().unwrap_or_default();
        let wrong = match one.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                Some(("values", "at least one is needed for In and NotIn"))
            }
            "In" | "NotIn" => None,
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                Some(("values", "must be empty for Exists and DoesNotExist"))
            }
            "Exists" | "DoesNotExist" => None,
            _ => Some(("operator", "must be In, NotIn, Exists or DoesNotExist")),
        };
        if let Some((field, message)) = wrong {
            faults.push((format!("matchExpressions[{index}].{field}"), message.to_owned()));
        }
    }
    faults
}
