//! `keelson get`

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;
use tonic::Code;

use super::{
    args::{Get, Namespace, Output},
    client::{self, Change, Client, Which, refused, text},
    columns::{self, View},
    print,
    programmed::{self, Programmed},
    table::Table,
    target::{self, Target},
};
use crate::control::{list::as_list, resource::Resource, yaml_text};

/// The namespace that is meant.
pub fn namespace(given: &Namespace) -> String {
    given
        .namespace
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

/// Show objects; false = some were not found.
pub async fn run(client: &mut Client, args: &Get) -> anyhow::Result<bool> {
    let targets = target::parse(&args.objects)?;
    if args.watch || args.watch_only {
        return match targets.as_slice() {
            [one] if one.names.len() <= 1 => follow(client, args, one).await.map(|()| true),
            _ => bail!("error: only one kind, and one name of it, can be followed at a time"),
        };
    }
    let mut fine = true;
    let mut found = Vec::new();
    let mut lacking = None;
    for target in &targets {
        let mut objects = Vec::new();
        for which in which(args, target) {
            match client::list(client, target.resource, &which).await {
                Ok(some) => objects.extend(some),
                Err(status) if status.code() == Code::NotFound => {
                    if !args.ignore_not_found {
                        fine = false;
                        eprintln!("{}", refused(&status));
                    }
                }
                // Of several kinds, those that this agent knows are shown.
                Err(status) if status.code() == Code::FailedPrecondition && targets.len() > 1 => {
                    lacking.get_or_insert(status);
                }
                Err(status) => return Err(refused(&status)),
            }
        }
        if target.resource == Resource::Events {
            sort_events(&mut objects);
        }
        found.push((target, objects));
    }
    if let Some(status) = lacking {
        eprintln!("{}", refused(&status));
    }
    match args.output {
        Some(Output::Json | Output::Yaml) => structured(args, &found)?,
        Some(Output::Name) => {
            for (target, objects) in &found {
                for object in objects {
                    print::text(&format!("{}\n", qualified(target.resource, object)))?;
                }
            }
        }
        Some(Output::Wide) | None => tables(args, &found, &programmed(client, args, &targets).await?)?,
    }
    Ok(fine)
}

/// What stands in the programs' maps, where it is shown.
async fn programmed(client: &mut Client, args: &Get, targets: &[Target]) -> anyhow::Result<Programmed> {
    let shown = targets.iter().any(|target| target.resource == Resource::Services);
    if shown && args.output == Some(Output::Wide) {
        programmed::ask(client).await
    } else {
        Ok(Programmed::new())
    }
}

/// `pod/web`
pub fn qualified(resource: Resource, object: &Value) -> String {
    format!("{}/{}", resource.qualified(), text(object, "/metadata/name"))
}

fn which(args: &Get, target: &Target) -> Vec<Which> {
    let one = |name: &str| Which {
        namespace: if args.all_namespaces {
            String::new()
        } else {
            namespace(&args.namespace)
        },
        name: name.to_owned(),
        selector: args.selector.clone().unwrap_or_default(),
    };
    if target.names.is_empty() {
        vec![one("")]
    } else {
        target.names.iter().map(|name| one(name)).collect()
    }
}

fn sort_events(objects: &mut [Value]) {
    objects.sort_by_cached_key(|object| {
        columns::read::<Event>(object)
            .ok()
            .and_then(|event| columns::last_seen(&event).map(|time| time.0))
    });
}

fn structured(args: &Get, found: &[(&Target, Vec<Value>)]) -> anyhow::Result<()> {
    let mut all: Vec<Value> = found.iter().flat_map(|(_, objects)| objects.clone()).collect();
    let named = found.len() == 1 && found[0].0.names.len() == 1;
    let value = match all.len() {
        // Nothing to show: the error has been told, or need not be.
        0 if named => return Ok(()),
        1 if named => all.remove(0),
        _ => as_list(all),
    };
    write_value(&value, args.output)
}

fn write_value(value: &Value, output: Option<Output>) -> anyhow::Result<()> {
    if output == Some(Output::Json) {
        print::text(&format!("{}\n", serde_json::to_string_pretty(value)?))
    } else {
        print::text(&yaml_text::yaml(value).map_err(anyhow::Error::msg)?)
    }
}

/// How rows are made, beyond the columns of the kind.
struct Rows<'a> {
    args: &'a Get,
    view: View,
    /// Kind before each name, where several kinds are shown.
    prefixed: bool,
    programmed: &'a Programmed,
}

impl<'a> Rows<'a> {
    fn new(args: &'a Get, target: &Target, prefixed: bool, programmed: &'a Programmed) -> Self {
        Self {
            programmed,
            args,
            view: View {
                resource: target.resource,
                endpoints: target.endpoints,
                wide: args.output == Some(Output::Wide),
                now: Timestamp::now(),
            },
            prefixed,
        }
    }

    fn headers(&self) -> Vec<String> {
        let mut headers = self.view.headers();
        if self.view.resource == Resource::Services && self.view.wide {
            headers.extend(programmed::COLUMNS.map(str::to_owned));
        }
        if self.namespaces() {
            headers.insert(0, "NAMESPACE".to_owned());
        }
        if self.args.show_labels {
            headers.push("LABELS".to_owned());
        }
        headers
    }

    fn namespaces(&self) -> bool {
        self.args.all_namespaces && self.view.resource.namespaced()
    }

    fn row(&self, object: &Value) -> Vec<String> {
        let mut row = self.view.row(object);
        if self.view.resource == Resource::Services && self.view.wide {
            row.extend(programmed::cells(programmed::of(self.programmed, object)));
        }
        // The first column of events is not a name.
        if self.prefixed
            && self.view.resource != Resource::Events
            && let Some(name) = row.first_mut()
        {
            *name = format!("{}/{name}", self.view.resource.qualified());
        }
        if self.namespaces() {
            row.insert(0, text(object, "/metadata/namespace").to_owned());
        }
        if self.args.show_labels {
            let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
            let labels: Vec<String> = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            row.push(columns::or_none(labels.join(",")));
        }
        row
    }
}

fn tables(args: &Get, found: &[(&Target, Vec<Value>)], programmed: &Programmed) -> anyhow::Result<()> {
    let several = found
        .iter()
        .any(|(target, _)| target.resource != found[0].0.resource);
    // Names of one kind that were asked for one by one stand in one table.
    let mut groups: Vec<(&Target, Vec<&Value>)> = Vec::new();
    for (target, objects) in found {
        match groups.last_mut() {
            Some((last, rows)) if last.resource == target.resource && last.endpoints == target.endpoints => {
                rows.extend(objects);
            }
            _ => groups.push((target, objects.iter().collect())),
        }
    }
    groups.retain(|(_, objects)| !objects.is_empty());
    if groups.is_empty() && found.iter().all(|(target, _)| target.names.is_empty()) {
        let namespaced = found.iter().any(|(target, _)| target.resource.namespaced());
        if namespaced && !args.all_namespaces {
            eprintln!("No resources found in {} namespace.", namespace(&args.namespace));
        } else {
            eprintln!("No resources found");
        }
        return Ok(());
    }
    for (index, (target, objects)) in groups.iter().enumerate() {
        let rows = Rows::new(args, target, several, programmed);
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !args.no_headers {
            lines.push(rows.headers());
        }
        lines.extend(objects.iter().map(|object| rows.row(object)));
        let mut table = Table::default();
        table.fit(&lines);
        if index > 0 {
            print::text("\n")?;
        }
        let lines: String = lines.iter().map(|row| table.line(row)).collect();
        print::text(&lines)?;
    }
    Ok(())
}

/// Show what is there, then every change.
async fn follow(client: &mut Client, args: &Get, target: &Target) -> anyhow::Result<()> {
    let which = which(args, target).remove(0);
    let mut changes = client::watch(client, target.resource, &which)
        .await
        .map_err(|status| refused(&status))?;
    let mut first = Vec::new();
    loop {
        match changes.next().await.map_err(|status| refused(&status))? {
            Change::Is(object) => first.push(object),
            Change::Gone(_) => {}
            Change::Listed => break,
        }
    }
    if first.is_empty() && !which.name.is_empty() && !args.watch_only {
        // The same words as without -w.
        client::list(client, target.resource, &which)
            .await
            .map_err(|status| refused(&status))?;
    }
    if target.resource == Resource::Events {
        sort_events(&mut first);
    }
    let mut table = Table::default();
    let mut headers = !args.no_headers;
    if args.watch_only {
        first.clear();
    }
    if !first.is_empty() {
        let programmed = programmed(client, args, std::slice::from_ref(target)).await?;
        show(args, target, &programmed, &mut table, &mut headers, &first)?;
    }
    loop {
        let change = changes.next().await.map_err(|status| refused(&status))?;
        let (Change::Is(object) | Change::Gone(object)) = change else {
            continue;
        };
        let programmed = programmed(client, args, std::slice::from_ref(target)).await?;
        show(args, target, &programmed, &mut table, &mut headers, &[object])?;
    }
}

fn show(
    args: &Get,
    target: &Target,
    programmed: &Programmed,
    table: &mut Table,
    headers: &mut bool,
    objects: &[Value],
) -> anyhow::Result<()> {
    match args.output {
        Some(Output::Json | Output::Yaml) => {
            for object in objects {
                if args.output == Some(Output::Yaml) {
                    print::text("---\n")?;
                }
                write_value(object, args.output)?;
            }
            return Ok(());
        }
        Some(Output::Name) => {
            for object in objects {
                print::text(&format!("{}\n", qualified(target.resource, object)))?;
            }
            return Ok(());
        }
        Some(Output::Wide) | None => {}
    }
    let rows = Rows::new(args, target, false, programmed);
    let mut lines = Vec::new();
    if std::mem::take(headers) {
        lines.push(rows.headers());
    }
    lines.extend(objects.iter().map(|object| rows.row(object)));
    table.fit(&lines);
    let lines: String = lines.iter().map(|row| table.line(row)).collect();
    print::text(&lines)
}
