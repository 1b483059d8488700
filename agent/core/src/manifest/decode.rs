//! Document → objects: kinds, types, unknown fields, defaults, validation. All that is wrong is told at once, each with
//! its document, line and field.

use std::fmt;

use serde_json::Value;

use super::{
    defaults,
    document::{Document, field, item},
    object::{Kind, Object, typed},
    validate,
};
use crate::manifest::validate::Rules;

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1 within the file.
    pub document: usize,
    /// Counted from 1 within the file.
    pub line: u64,
    /// Path of the field; empty = the document as a whole.
    pub field: String,
    /// What is wrong, and what helps.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}", self.document, self.line)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A field and what is wrong with it, before its place in a file is known.
pub type Fault = (String, String);

/// The objects of one document: one, or those of a `List`.
pub fn decode(document: &Document, rules: &Rules) -> Result<Vec<Object>, Vec<Problem>> {
    let mut objects = Vec::new();
    let mut faults = Vec::new();
    collect(&document.value, "", rules, &mut objects, &mut faults);
    if faults.is_empty() {
        return Ok(objects);
    }
    let place = |(path, message): Fault| Problem {
        document: document.number,
        line: document.line_of(&path),
        field: path,
        message,
    };
    Err(faults.into_iter().map(place).collect())
}

fn collect(value: &Value, path: &str, rules: &Rules, objects: &mut Vec<Object>, faults: &mut Vec<Fault>) {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    if !value.is_object() {
        return faults.push((
            path.to_owned(),
            "an object with apiVersion and kind is expected here".to_owned(),
        ));
    }
    let (version, name) = (text("apiVersion"), text("kind"));
    if name == "List" && version == "v1" {
        let items = value.get("items").and_then(Value::as_array);
        for (index, one) in items.into_iter().flatten().enumerate() {
            collect(one, &item(&field(path, "items"), index), rules, objects, faults);
        }
        return;
    }
    match kind_of(version, name, rules) {
        Ok(kind) => match object(kind, value, rules) {
            Ok(object) => objects.push(object),
            Err(found) => faults.extend(found.into_iter().map(|(at, message)| (join(path, &at), message))),
        },
        Err((at, message)) => faults.push((field(path, at), message)),
    }
}

fn kind_of(version: &str, name: &str, rules: &Rules) -> Result<Kind, (&'static str, String)> {
    if name.is_empty() {
        return Err(("kind", "is missing".to_owned()));
    }
    let Some(kind) = Kind::named(name) else {
        let known = Kind::ALL.map(Kind::name).join(", ");
        return Err((
            "kind",
            format!("{name:?} is not supported by this version; supported are {known} and List"),
        ));
    };
    if !rules.runs_pods && !kind.concerns_services() {
        let taken = Kind::ALL.into_iter().filter(|kind| kind.concerns_services());
        let taken: Vec<&str> = taken.map(Kind::name).collect();
        return Err((
            "kind",
            format!(
                "{name} is nothing for `keelson proxy`, which runs no pods; it takes {} and List",
                taken.join(", ")
            ),
        ));
    }
    if version != kind.api_version() {
        let expected = kind.api_version();
        return Err((
            "apiVersion",
            format!("{version:?} is not supported for {name}; write {expected:?}"),
        ));
    }
    Ok(kind)
}

fn object(kind: Kind, value: &Value, rules: &Rules) -> Result<Object, Vec<Fault>> {
    let mut object = typed(kind, without_served_fields(value)).map_err(|error| {
        let mut path = String::new();
        for segment in error.path() {
            match segment {
                serde_path_to_error::Segment::Map { key } => path = field(&path, key),
                serde_path_to_error::Segment::Seq { index } => path = item(&path, *index),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
            }
        }
        vec![(path, error.into_inner().to_string())]
    })?;
    let mut faults = Vec::new();
    match object.to_value() {
        // Only the name of a namespace is kept, so there is nothing to compare with.
        Ok(_) if kind == Kind::Namespace => {}
        Ok(known) => unknown_fields(&without_served_fields(value), &known, "", &mut faults),
        Err(error) => faults.push((String::new(), error.to_string())),
    }
    defaults::object(&mut object, &rules.node_name);
    faults.extend(validate::object(&object, rules));
    if faults.is_empty() {
        Ok(object)
    } else {
        Err(faults)
    }
}

/// What an API server would set itself and ignores in what it is given: objects are often written by
/// `get -o yaml`, and must mean the same when they are read again.
pub fn without_served_fields(value: &Value) -> Value {
    let mut value = value.clone();
    // Where a load balancer takes clients in is said by people here: no controller writes it.
    let ingress = value.pointer("/status/loadBalancer/ingress").cloned();
    let ingress = ingress.filter(|_| value["kind"] == "Service");
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
        if let Some(ingress) = ingress {
            let status = serde_json::json!({ "loadBalancer": { "ingress": ingress } });
            map.insert("status".to_owned(), status);
        }
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in [
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(name);
        }
    }
    value
}

/// Fields of `given` that `known`, which is the same object after it went through its type, does not have.
fn unknown_fields(given: &Value, known: &Value, path: &str, faults: &mut Vec<Fault>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                match known.get(name) {
                    Some(known) => unknown_fields(value, known, &field(path, name), faults),
                    // Null means "not set", and a field that is not set is not written again.
                    None if value.is_null() => {}
                    None => faults.push((field(path, name), "unknown field".to_owned())),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_fields(given, known, &item(path, index), faults);
            }
        }
        _ => {}
    }
}

fn join(path: &str, below: &str) -> String {
    match (path.is_empty(), below.is_empty() || below.starts_with('[')) {
        (true, _) => below.to_owned(),
        (false, true) => format!("{path}{below}"),
        (false, false) => format!("{path}.{below}"),
    }
}
