//! Apply: documents become files of the folder of manifests, which is the only truth. Everything is checked first, against all
//! that the folder holds; then all objects are written, or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use keelson_core::manifest::{
    decode::{decode, without_served_fields},
    document::Document,
    merge::{Accepted, Allocated, Readings, merge},
    object::{Id, Kind, Object},
    validate::Rules,
};
use keelson_proto::keelson::{Source, applied::Action};
use serde_json::Value;

use super::folder;
use crate::{
    world::ManifestReport,
    yaml::{self, Format},
};

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The object.
    pub id: Id,
    /// Where it is kept.
    pub file: PathBuf,
    /// As the user wrote it.
    pub value: Value,
    /// What that means.
    pub action: Action,
}

/// What is known when a plan is made.
pub struct Observed<'a> {
    /// All files as they are now.
    pub readings: &'a Readings,
    /// What runs from them, which differs where a file's newest text is refused.
    pub reports: &'a BTreeMap<PathBuf, ManifestReport>,
    /// Services as they run.
    pub allocated: &'a Allocated,
    /// What objects must respect.
    pub rules: &'a Rules,
}

/// An object of the request.
struct Given {
    object: Object,
    value: Value,
}

/// Documents → steps, or all that is wrong.
pub fn plan(sources: &[Source], namespace: &str, observed: &Observed<'_>) -> Result<Vec<Step>, Vec<String>> {
    let given = read(sources, namespace, observed.rules)?;
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    let mut readings = observed.readings.clone();
    for Given { object, value } in given {
        let id = object.id();
        if !seen.insert(id.clone()) {
            problems.push(format!("{id} is given twice; leave one of them out"));
            continue;
        }
        let file = match place(&id, observed, &readings) {
            Ok(file) => file,
            Err(owner) => {
                problems.push(format!(
                    "{id} is defined in {} already; change it there, or remove it there first",
                    owner.display()
                ));
                continue;
            }
        };
        let action = match observed.readings.get(&file) {
            Some(Ok(there)) if there.as_slice() == std::slice::from_ref(&object) => Action::Unchanged,
            Some(_) => Action::Configured,
            None => Action::Created,
        };
        readings.insert(file.clone(), Ok(vec![object]));
        steps.push(Step {
            id,
            file,
            value,
            action,
        });
    }
    // What the folder holds now goes before what is to be added to it.
    let merged = merge(&readings, &accepted(observed.readings), observed.allocated);
    problems.extend(
        steps
            .iter()
            .filter_map(|step| merged.problems.get(&step.file))
            .flatten()
            .cloned(),
    );
    if problems.is_empty() {
        Ok(steps)
    } else {
        Err(problems)
    }
}

fn accepted(readings: &Readings) -> Accepted {
    let good = readings
        .iter()
        .filter_map(|(path, reading)| Some((path.clone(), reading.clone().ok()?)));
    good.collect()
}

/// All documents as objects, each with the value it was written with.
fn read(sources: &[Source], namespace: &str, rules: &Rules) -> Result<Vec<Given>, Vec<String>> {
    let (mut given, mut problems) = (Vec::new(), Vec::new());
    for source in sources {
        let format = if source.json { Format::Json } else { Format::Yaml };
        for document in yaml::documents(&source.text, format) {
            let outcome = match document {
                Ok(document) => one(document, namespace, rules),
                Err(error) => Err(vec![error.to_string()]),
            };
            match outcome {
                Ok(found) => given.extend(found),
                Err(found) => {
                    problems.extend(found.into_iter().map(|text| format!("{}: {text}", source.name)));
                }
            }
        }
    }
    if given.is_empty() && problems.is_empty() {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        problems.push(format!("no objects in {}", names.join(", ")));
    }
    if problems.is_empty() {
        Ok(given)
    } else {
        Err(problems)
    }
}

fn one(mut document: Document, namespace: &str, rules: &Rules) -> Result<Vec<Given>, Vec<String>> {
    let mut values = Vec::new();
    put_namespace(&mut document.value, namespace);
    flatten(&document.value, &mut values);
    let objects = decode(&document, rules)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let elsewhere: Vec<String> = objects
        .iter()
        .filter(|object| !namespace.is_empty() && object.kind().namespaced())
        .filter(|object| object.id().key.namespace != namespace)
        .map(|object| {
            format!(
                "document {}, line {}: {} is in another namespace than {namespace}, which was asked for with -n",
                document.number,
                document.line,
                object.id()
            )
        })
        .collect();
    if !elsewhere.is_empty() {
        return Err(elsewhere);
    }
    // decode takes the items of lists in the same order.
    let given = objects.into_iter().zip(values);
    Ok(given.map(|(object, value)| Given { object, value }).collect())
}

/// Objects that name no namespace get the one asked for.
fn put_namespace(value: &mut Value, namespace: &str) {
    if namespace.is_empty() {
        return;
    }
    if let Some(items) = list_items(value) {
        for item in items {
            put_namespace(item, namespace);
        }
        return;
    }
    let kind = value.get("kind").and_then(Value::as_str).and_then(Kind::named);
    let cluster_wide = kind.is_some_and(|kind| !kind.namespaced());
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        && !cluster_wide
        && metadata.get("namespace").is_none_or(Value::is_null)
    {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
}

fn list_items(value: &mut Value) -> Option<&mut Vec<Value>> {
    if value.get("kind").and_then(Value::as_str) != Some("List") {
        return None;
    }
    value.get_mut("items").and_then(Value::as_array_mut)
}

fn flatten(value: &Value, values: &mut Vec<Value>) {
    if value.get("kind").and_then(Value::as_str) != Some("List") {
        values.push(without_served_fields(value));
        return;
    }
    for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
        flatten(item, values);
    }
}

/// Files that define an object: by their text as it is now, or by what still runs from them.
pub fn owners<'a>(
    id: &Id,
    readings: &'a Readings,
    reports: &'a BTreeMap<PathBuf, ManifestReport>,
) -> BTreeSet<&'a Path> {
    let name = id.to_string();
    let written = readings.iter().filter(|(_, reading)| {
        reading
            .as_ref()
            .is_ok_and(|objects| objects.iter().any(|object| object.id() == *id))
    });
    let running = reports.iter().filter(|(path, report)| {
        report.objects.contains(&name) && readings.get(*path).is_some_and(Result::is_err)
    });
    written
        .map(|(path, _)| path.as_path())
        .chain(running.map(|(path, _)| path.as_path()))
        .collect()
}

/// Whether the file is one that `apply` wrote for this object and nothing else.
pub fn is_own_file(file: &Path, id: &Id, readings: &Readings) -> bool {
    if !file.starts_with(folder::APPLIED) {
        return false;
    }
    match readings.get(file) {
        Some(Ok(objects)) => objects.len() == 1 && objects[0].id() == *id,
        Some(Err(_)) => file == folder::file_of(id) || file == folder::other_file_of(id),
        None => true,
    }
}

/// The file for an object, or the one that has it and is not `apply`'s to change.
fn place(id: &Id, observed: &Observed<'_>, planned: &Readings) -> Result<PathBuf, PathBuf> {
    // Any number of files may name a namespace.
    let owner = match id.kind {
        Kind::Namespace => None,
        _ => owners(id, observed.readings, observed.reports).into_iter().next(),
    };
    match owner {
        Some(owner) if is_own_file(owner, id, observed.readings) => return Ok(owner.to_owned()),
        Some(owner) => return Err(owner.to_owned()),
        None => {}
    }
    let file = folder::file_of(id);
    // By a file that is there, or by an object of this very request.
    let taken = !is_own_file(&file, id, planned);
    Ok(if taken { folder::other_file_of(id) } else { file })
}
