//! `keelson wait`, and waiting in other commands.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{anyhow, bail};
use serde_json::Value;

use super::{
    args::Wait,
    client::{self, Change, Client, Which, refused, text},
    get, print, target,
};
use crate::control::resource::Resource;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// The object of this UID is gone; an empty one means any.
    Gone(String),
    /// No object has an owner of this UID.
    NoneOwnedBy(String),
    /// There is an object.
    There,
    /// All objects have a condition of this name and value, told of their newest generation.
    Condition(String, String),
    /// All objects have this value at this path (a JSON pointer); without a value, any.
    Value(String, Option<String>),
}

impl Until {
    /// Understand `--for`.
    pub fn parse(what: &str) -> anyhow::Result<Self> {
        match what {
            "delete" => return Ok(Self::Gone(String::new())),
            "create" => return Ok(Self::There),
            _ => {}
        }
        if let Some(condition) = what.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "True"));
            if !name.is_empty() {
                return Ok(Self::Condition(name.to_owned(), value.to_owned()));
            }
        }
        if let Some(rest) = what.strip_prefix("jsonpath=") {
            let (path, value) = match rest.split_once("}=") {
                Some((path, value)) => (path, Some(value.to_owned())),
                None => (rest.trim_end_matches('}'), None),
            };
            let path = path.trim_start_matches('{');
            let plain = path.starts_with('.')
                && path
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-[]".contains(c));
            if plain {
                let pointer = path.replace(['.', '['], "/").replace(']', "");
                return Ok(Self::Value(pointer, value));
            }
        }
        bail!(
            "error: --for={what:?} is not understood; write delete, create, condition=Ready, condition=Ready=false \
             or jsonpath='{{.status.phase}}'=Running"
        )
    }

    /// Whether it is so with these objects.
    pub fn holds<'a>(&self, mut objects: impl Iterator<Item = &'a Value>) -> bool {
        let mut objects = objects.by_ref().peekable();
        match self {
            Self::Gone(uid) => !objects.any(|object| uid.is_empty() || text(object, "/metadata/uid") == uid),
            Self::NoneOwnedBy(uid) => !objects.any(|object| {
                let owners = object
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array);
                owners
                    .into_iter()
                    .flatten()
                    .any(|owner| text(owner, "/uid") == uid)
            }),
            Self::There => objects.peek().is_some(),
            Self::Condition(name, value) => {
                objects.peek().is_some() && objects.all(|object| has_condition(object, name, value))
            }
            Self::Value(path, wanted) => {
                let is = |object: &Value| match (object.pointer(path), wanted) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(Value::String(found)), Some(wanted)) => found == wanted,
                    (Some(found), Some(wanted)) => {
                        // Of anything but texts, the way JSON writes it.
                        let found = found.to_string();
                        found == *wanted
                    }
                };
                objects.peek().is_some() && objects.all(is)
            }
        }
    }
}

fn has_condition(object: &Value, name: &str, value: &str) -> bool {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    // What is said of an older generation is not said of this one.
    if let (Some(generation), Some(observed)) = (
        number("/metadata/generation"),
        number("/status/observedGeneration"),
    ) && observed < generation
    {
        return false;
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type").eq_ignore_ascii_case(name)
            && text(condition, "/status").eq_ignore_ascii_case(value)
    })
}

/// Wait, for as long as it takes.
pub async fn until(
    client: &mut Client,
    resource: Resource,
    which: &Which,
    what: &Until,
) -> anyhow::Result<()> {
    let fail = |status: tonic::Status| refused(&status);
    let mut changes = client::watch(client, resource, which).await.map_err(fail)?;
    let mut objects: BTreeMap<(String, String), Value> = BTreeMap::new();
    let mut listed = false;
    let key = |object: &Value| {
        (
            text(object, "/metadata/namespace").to_owned(),
            text(object, "/metadata/name").to_owned(),
        )
    };
    loop {
        match changes.next().await.map_err(fail)? {
            Change::Is(object) => drop(objects.insert(key(&object), object)),
            Change::Gone(object) => drop(objects.remove(&key(&object))),
            Change::Listed => listed = true,
        }
        if listed && what.holds(objects.values()) {
            return Ok(());
        }
    }
}

/// Wait for what was asked.
pub async fn run(client: &mut Client, args: &Wait) -> anyhow::Result<()> {
    let what = Until::parse(&args.what)?;
    let chosen = args.all || args.selector.is_some();
    let mut waits = Vec::new();
    for target in target::parse(&args.objects)? {
        let which = |name: &str| Which {
            namespace: get::namespace(&args.namespace),
            name: name.to_owned(),
            selector: args.selector.clone().unwrap_or_default(),
        };
        match (target.names.is_empty(), chosen) {
            (true, false) => bail!(
                "error: name the {}, or choose them with -l or --all",
                target.resource
            ),
            (true, true) => waits.push((target.resource, which(""))),
            (false, _) => waits.extend(target.names.iter().map(|name| (target.resource, which(name)))),
        }
    }
    for (resource, which) in waits {
        // What is not there will not become ready.
        if !matches!(what, Until::Gone(_) | Until::There) && !which.name.is_empty() {
            client::list(client, resource, &which)
                .await
                .map_err(|status| refused(&status))?;
        }
        one(client, resource, &which, &what, args.timeout).await?;
        let name = if which.name.is_empty() {
            resource.plural().to_owned()
        } else {
            format!("{}/{}", resource.qualified(), which.name)
        };
        let met = match what {
            Until::Gone(_) => "deleted",
            Until::There => "created",
            _ => "condition met",
        };
        print::text(&format!("{name} {met}\n"))?;
    }
    Ok(())
}

async fn one(
    client: &mut Client,
    resource: Resource,
    which: &Which,
    what: &Until,
    patience: Duration,
) -> anyhow::Result<()> {
    let name = &which.name;
    if patience == Duration::ZERO {
        let found = match client::list(client, resource, which).await {
            Ok(found) => found,
            Err(status) if status.code() == tonic::Code::NotFound => Vec::new(),
            Err(status) => return Err(refused(&status)),
        };
        if what.holds(found.iter()) {
            return Ok(());
        }
        return Err(anyhow!("error: {resource} {name}: it is not so now"));
    }
    tokio::time::timeout(patience, until(client, resource, which, what))
        .await
        .map_err(|_| anyhow!("error: timed out waiting for the condition on {resource} {name}"))?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_waited_for_is_understood() {
        let condition = |name: &str, value: &str| Until::Condition(name.to_owned(), value.to_owned());
        for (text, expected) in [
            ("delete", Some(Until::Gone(String::new()))),
            ("create", Some(Until::There)),
            ("condition=Ready", Some(condition("Ready", "True"))),
            ("condition=ready=false", Some(condition("ready", "false"))),
            (
                "jsonpath={.status.phase}=Running",
                Some(Until::Value(
                    "/status/phase".to_owned(),
                    Some("Running".to_owned()),
                )),
            ),
            (
                "jsonpath={.status.conditions[0].type}",
                Some(Until::Value("/status/conditions/0/type".to_owned(), None)),
            ),
            ("condition=", None),
            ("jsonpath={..x}[?(@.a)]=1", None),
            ("ready", None),
        ] {
            assert_eq!(Until::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn it_holds_for_all_objects_or_not_at_all() {
        let object = |ready: &str, generation: i64, observed: i64| {
            json!({ "metadata": { "uid": "u1", "generation": generation, "ownerReferences": [{ "uid": "o1" }] },
                    "status": { "phase": "Running", "replicas": 3, "observedGeneration": observed,
                                "conditions": [{ "type": "Ready", "status": ready }] } })
        };
        let (good, bad, old) = (object("True", 1, 1), object("False", 1, 1), object("True", 2, 1));
        let ready = Until::parse("condition=ready").expect("fine");
        let value = |text: &str| Until::parse(text).expect("fine");
        for (until, objects, expected) in [
            (&ready, vec![&good], true),
            (&ready, vec![&good, &bad], false),
            (&ready, vec![&old], false),
            (&ready, vec![], false),
            (&value("condition=Ready=False"), vec![&bad], true),
            (&value("jsonpath={.status.phase}=Running"), vec![&good], true),
            (&value("jsonpath={.status.replicas}=3"), vec![&good], true),
            (&value("jsonpath={.status.replicas}=2"), vec![&good], false),
            (&value("jsonpath={.status.nothing}"), vec![&good], false),
            (&Until::There, vec![], false),
            (&Until::There, vec![&bad], true),
            (&Until::Gone(String::new()), vec![&bad], false),
            (&Until::Gone("u1".to_owned()), vec![&bad], false),
            (&Until::Gone("u2".to_owned()), vec![&bad], true),
            (&Until::Gone(String::new()), vec![], true),
            (&Until::NoneOwnedBy("o1".to_owned()), vec![&good], false),
            (&Until::NoneOwnedBy("o2".to_owned()), vec![&good], true),
        ] {
            assert_eq!(
                until.holds(objects.iter().copied()),
                expected,
                "{until:?} of {objects:?}"
            );
        }
    }
}
