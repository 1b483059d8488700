//! `keelson describe`: all about an object, with its events.

mod other;
mod pod;
#[cfg(test)]
mod tests;
mod workload;

use anyhow::anyhow;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Event,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time},
};
use keelson_core::explain::programmed::Served;
use serde_json::Value;

pub use self::workload::selector_text;
use super::{
    args::Describe,
    client::{self, Client, Which, refused, text},
    columns::{self, NONE},
    get, print,
    programmed::{self, Programmed},
    table, target,
};
use crate::control::resource::Resource;

/// Space between keys and values.
const GAP: usize = 2;

/// Text of lines: indented, a tab between key and value, aligned at the end.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// A line.
    pub fn line(&mut self, level: usize, text: &str) {
        self.text.push_str(&"  ".repeat(level));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// `Key:  value`
    pub fn field(&mut self, level: usize, key: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        self.line(level, &format!("{key}:\t{value}"));
    }

    /// A field that is left out if there is nothing in it.
    pub fn field_if(&mut self, level: usize, key: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value.filter(|value| !value.as_ref().is_empty()) {
            self.field(level, key, value);
        }
    }

    /// Values below each other, the first beside the key.
    pub fn list(&mut self, level: usize, key: &str, values: impl IntoIterator<Item = String>) {
        let mut key = format!("{key}:");
        let mut any = false;
        for value in values {
            any = true;
            self.line(level, &format!("{key}\t{value}"));
            key.clear();
        }
        if !any {
            self.line(level, &format!("{key}\t{NONE}"));
        }
    }

    /// The page as text.
    pub fn finish(self) -> String {
        table::align(&self.text, GAP)
    }
}

/// Name, namespace, labels and annotations: how every page begins.
fn head(page: &mut Page, metadata: &ObjectMeta, namespaced: bool) {
    page.field(0, "Name", metadata.name.as_deref().unwrap_or_default());
    if namespaced {
        page.field(0, "Namespace", metadata.namespace.as_deref().unwrap_or("default"));
    }
}

fn labels(page: &mut Page, metadata: &ObjectMeta) {
    page.list(0, "Labels", keyed(metadata.labels.iter().flatten(), "="));
    page.list(
        0,
        "Annotations",
        keyed(metadata.annotations.iter().flatten(), ": "),
    );
}

/// `key=value`, one by one.
fn keyed<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>, separator: &str) -> Vec<String> {
    pairs
        .map(|(key, value)| format!("{key}{separator}{}", value.replace('\n', " ")))
        .collect()
}

/// A time as people of this node read it.
fn time(time: &Time) -> String {
    time.0
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime("%a, %d %b %Y %H:%M:%S %z")
        .to_string()
}

fn time_of(at: Option<&Time>) -> Option<String> {
    at.map(time)
}

/// The table of events, or `Events: <none>`.
fn events(page: &mut Page, events: &[Event], now: Timestamp) {
    if events.is_empty() {
        return page.field(0, "Events", NONE);
    }
    page.line(0, "Events:");
    page.line(1, "Type\tReason\tAge\tFrom\tMessage");
    page.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let from = event
            .source
            .as_ref()
            .and_then(|source| source.component.as_deref());
        page.line(
            1,
            &format!(
                "{}\t{}\t{}\t{}\t{}",
                event.type_.as_deref().unwrap_or_default(),
                event.reason.as_deref().unwrap_or_default(),
                columns::seen(event, now),
                from.or(event.reporting_component.as_deref()).unwrap_or_default(),
                event
                    .message
                    .as_deref()
                    .unwrap_or_default()
                    .trim()
                    .replace('\n', " ")
            ),
        );
    }
}

/// What a page is made of.
pub struct Facts<'a> {
    /// The object.
    pub object: &'a Value,
    /// Its events, oldest first.
    pub events: &'a [Event],
    /// Slices of a Service, pods of a node: what belongs to it.
    pub related: &'a [Value],
    /// Of a Service: what of it stands in the programs' maps.
    pub programmed: &'a [Served],
    /// Ages are told as of this time.
    pub now: Timestamp,
}

/// The page of an object.
pub fn page(resource: Resource, facts: &Facts<'_>) -> serde_json::Result<String> {
    let mut page = Page::default();
    match resource {
        Resource::Pods => pod::describe(&mut page, &columns::read(facts.object)?),
        Resource::Deployments => workload::deployment(&mut page, &columns::read(facts.object)?),
        Resource::Services => {
            workload::service(&mut page, &columns::read(facts.object)?, facts.related);
            page.list(0, "Programmed", programmed::lines(facts.programmed));
        }
        Resource::EndpointSlices => workload::endpoint_slice(&mut page, &columns::read(facts.object)?),
        Resource::ConfigMaps => other::config_map(&mut page, &columns::read(facts.object)?),
        Resource::Secrets => other::secret(&mut page, &columns::read(facts.object)?),
        Resource::Nodes => other::node(&mut page, &columns::read(facts.object)?, facts.related, facts.now),
        Resource::Events => other::event(&mut page, &columns::read(facts.object)?),
        Resource::Peers => other::peer(&mut page, &columns::read(facts.object)?),
        Resource::Namespaces => {
            page.field(0, "Name", text(facts.object, "/metadata/name"));
            page.field(0, "Status", text(facts.object, "/status/phase"));
        }
        Resource::Manifests => other::manifest(&mut page, facts.object),
    }
    if resource != Resource::Events {
        events(&mut page, facts.events, facts.now);
    }
    Ok(page.finish())
}

/// Describe what was asked for.
pub async fn run(client: &mut Client, args: &Describe) -> anyhow::Result<()> {
    let fail = |status: tonic::Status| refused(&status);
    let namespace = if args.all_namespaces {
        String::new()
    } else {
        get::namespace(&args.namespace)
    };
    let mut first = true;
    for target in target::parse(&args.objects)? {
        let which = Which {
            namespace: namespace.clone(),
            name: String::new(),
            selector: args.selector.clone().unwrap_or_default(),
        };
        let all = client::list(client, target.resource, &which)
            .await
            .map_err(fail)?;
        let chosen = choose(&all, &target.names, target.resource)?;
        if chosen.is_empty() {
            eprintln!("No resources found");
        }
        let all_events = client::list(client, Resource::Events, &Which::default())
            .await
            .map_err(fail)?;
        for object in chosen {
            let related = related(client, target.resource, object).await.map_err(fail)?;
            let served = match target.resource {
                Resource::Services => programmed::ask(client).await?,
                _ => Programmed::new(),
            };
            let facts = Facts {
                programmed: programmed::of(&served, object),
                object,
                events: &events_of(object, &all_events),
                related: &related,
                now: Timestamp::now(),
            };
            let name = text(object, "/metadata/name");
            let text = page(target.resource, &facts)
                .map_err(|error| anyhow!("error: {} {name} cannot be shown: {error}", target.resource))?;
            if !std::mem::take(&mut first) {
                print::text("\n\n")?;
            }
            print::text(&text)?;
        }
    }
    Ok(())
}

/// Slices of a Service, pods of a node: what belongs to an object.
async fn related(
    client: &mut Client,
    resource: Resource,
    object: &Value,
) -> Result<Vec<Value>, tonic::Status> {
    match resource {
        Resource::Services => {
            let which = Which {
                namespace: text(object, "/metadata/namespace").to_owned(),
                selector: format!("kubernetes.io/service-name={}", text(object, "/metadata/name")),
                ..Which::default()
            };
            client::list(client, Resource::EndpointSlices, &which).await
        }
        Resource::Nodes => match client::list(client, Resource::Pods, &Which::default()).await {
            // An agent without pods has a node all the same.
            Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(Vec::new()),
            pods => pods,
        },
        _ => Ok(Vec::new()),
    }
}

/// The objects of these names; where none has a name, those whose names begin so.
fn choose<'a>(all: &'a [Value], names: &[String], resource: Resource) -> anyhow::Result<Vec<&'a Value>> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        let with = |fits: &dyn Fn(&str) -> bool| -> Vec<&'a Value> {
            all.iter()
                .filter(|object| fits(text(object, "/metadata/name")))
                .collect()
        };
        let mut found = with(&|other| other == name);
        if found.is_empty() {
            found = with(&|other| other.starts_with(name.as_str()));
        }
        if found.is_empty() {
            let why = crate::control::delete::not_found(resource, name);
            return Err(anyhow!("Error from server (NotFound): {why}"));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// Events about an object: by UID where both sides have one, else by name.
fn events_of(object: &Value, all: &[Value]) -> Vec<Event> {
    let (uid, name) = (text(object, "/metadata/uid"), text(object, "/metadata/name"));
    let (kind, namespace) = (text(object, "/kind"), text(object, "/metadata/namespace"));
    let about = |event: &&Value| {
        let other = text(event, "/involvedObject/uid");
        let other_namespace = text(event, "/involvedObject/namespace");
        text(event, "/involvedObject/kind") == kind
            && text(event, "/involvedObject/name") == name
            && (namespace.is_empty() || other_namespace.is_empty() || other_namespace == namespace)
            && (uid.is_empty() || other.is_empty() || uid == other || kind == "Node")
    };
    let mut found: Vec<Event> = all
        .iter()
        .filter(about)
        .filter_map(|event| columns::read(event).ok())
        .collect();
    found.sort_by_key(|event| columns::last_seen(event).map(|time| time.0));
    found
}

/// `app=web,tier in (a,b)`
fn selector_of(selector: &LabelSelector) -> String {
    selector_text(selector)
}
