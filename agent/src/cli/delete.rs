//! `keelson delete`

use std::{collections::BTreeSet, time::Duration};

use anyhow::{anyhow, bail};
use keelson_proto::keelson::{DeleteRequest, Deleted, ObjectRef, Source};
use serde_json::Value;
use tonic::Code;

use super::{
    args::Delete,
    client::{self, Client, Which, refused, text},
    files, get, print, target,
    wait::{self, Until},
};
use crate::{
    control::resource::Resource,
    yaml::{Format, documents},
};
use keelson_core::manifest::object::Kind;

/// Delete, say it, and wait for the end; false = some were not found.
pub async fn run(client: &mut Client, args: &Delete) -> anyhow::Result<bool> {
    let mut objects = if args.files.filename.is_empty() {
        named(client, args).await?
    } else if args.objects.is_empty() {
        of_files(&files::read(&args.files)?, &get::namespace(&args.namespace))?
    } else {
        bail!("error: either -f or names, not both");
    };
    if objects.is_empty() {
        print::text("No resources found\n")?;
        return Ok(true);
    }
    let mut fine = true;
    if !args.ignore_not_found {
        fine = tell_missing(client, args, &mut objects).await?;
    }
    let grace_seconds = match (args.force, args.now) {
        (true, _) => Some(0),
        (_, true) => Some(1),
        // kubectl's -1 means: as the pod says.
        _ => args.grace_period.filter(|grace| *grace >= 0),
    };
    let request = DeleteRequest {
        objects,
        grace_seconds,
        // What was there a moment ago is what was meant.
        ignore_not_found: true,
    };
    let response = client
        .delete(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    for deleted in &response.results {
        tell(args, &deleted.object.clone().unwrap_or_default())?;
    }
    if args.wait {
        all_gone(client, args, &response.results).await?;
    }
    Ok(fine)
}

/// Say that an object was deleted.
fn tell(args: &Delete, object: &ObjectRef) -> anyhow::Result<()> {
    let kind = Resource::named(&object.resource).map_or(object.resource.clone(), Resource::qualified);
    if args.output.is_some() {
        return print::text(&format!("{kind}/{}\n", object.name));
    }
    let how = if args.force { " force deleted" } else { " deleted" };
    print::text(&format!("{kind} \"{}\"{how}\n", object.name))
}

async fn all_gone(client: &mut Client, args: &Delete, results: &[Deleted]) -> anyhow::Result<()> {
    let waiting = async {
        for deleted in results {
            gone(
                client,
                args,
                &deleted.object.clone().unwrap_or_default(),
                &deleted.uid,
            )
            .await?;
        }
        anyhow::Ok(())
    };
    if args.timeout == Duration::ZERO {
        return waiting.await;
    }
    tokio::time::timeout(args.timeout, waiting).await.map_err(|_| {
        anyhow!("error: timed out waiting for the objects' end; it goes on, see `keelson get pods`")
    })?
}

/// Say which objects are not there, and leave them out.
async fn tell_missing(
    client: &mut Client,
    args: &Delete,
    objects: &mut Vec<ObjectRef>,
) -> anyhow::Result<bool> {
    let mut there = Vec::new();
    let mut fine = true;
    for object in objects.drain(..) {
        let request = DeleteRequest {
            objects: vec![object.clone()],
            ..DeleteRequest::default()
        };
        match exists(client, &object).await {
            Ok(true) => there.push(object),
            // A file may hold what does not run: the agent knows.
            Ok(false) => match client.delete(request).await {
                Ok(response) => {
                    for deleted in response.into_inner().results {
                        tell(args, &deleted.object.unwrap_or_default())?;
                    }
                }
                Err(status) if status.code() == Code::NotFound => {
                    fine = false;
                    eprintln!("{}", refused(&status));
                }
                Err(status) => return Err(refused(&status)),
            },
            Err(status) => return Err(refused(&status)),
        }
    }
    *objects = there;
    Ok(fine)
}

async fn exists(client: &mut Client, object: &ObjectRef) -> Result<bool, tonic::Status> {
    let Some(resource) = Resource::named(&object.resource) else {
        return Ok(false);
    };
    let which = Which {
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        selector: String::new(),
    };
    match client::list(client, resource, &which).await {
        Ok(found) => Ok(!found.is_empty()),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status),
    }
}

/// Objects named on the command line, or chosen there.
async fn named(client: &mut Client, args: &Delete) -> anyhow::Result<Vec<ObjectRef>> {
    if args.objects.is_empty() {
        bail!("error: say what to delete: -f FILE, KIND NAME or KIND/NAME");
    }
    let namespace = get::namespace(&args.namespace);
    let mut objects = Vec::new();
    for target in target::parse(&args.objects)? {
        let reference = |name: &str| ObjectRef {
            resource: target.resource.plural().to_owned(),
            namespace: namespace.clone(),
            name: name.to_owned(),
        };
        let chosen = args.all || args.selector.is_some();
        if chosen && !target.names.is_empty() {
            bail!("error: names, --all and -l exclude each other");
        }
        if !chosen && target.names.is_empty() {
            bail!(
                "error: name the {} to delete, or choose them with -l or --all",
                target.resource
            );
        }
        objects.extend(target.names.iter().map(|name| reference(name)));
        if chosen {
            let which = Which {
                namespace: namespace.clone(),
                name: String::new(),
                selector: args.selector.clone().unwrap_or_default(),
            };
            let found = client::list(client, target.resource, &which)
                .await
                .map_err(|status| refused(&status))?;
            objects.extend(
                found
                    .iter()
                    .map(|object| reference(text(object, "/metadata/name"))),
            );
        }
    }
    Ok(objects)
}

/// Objects that files name. They need not be good in any other way.
fn of_files(sources: &[Source], namespace: &str) -> anyhow::Result<Vec<ObjectRef>> {
    let mut objects = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources {
        let format = if source.json { Format::Json } else { Format::Yaml };
        for document in documents(&source.text, format) {
            let document = document.map_err(|error| anyhow!("error: {}: {error}", source.name))?;
            of_value(&document.value, namespace, &mut |object| {
                if seen.insert((
                    object.resource.clone(),
                    object.namespace.clone(),
                    object.name.clone(),
                )) {
                    objects.push(object);
                }
            })
            .map_err(|why| anyhow!("error: {}, document {}: {why}", source.name, document.number))?;
        }
    }
    Ok(objects)
}

fn of_value(value: &Value, namespace: &str, found: &mut dyn FnMut(ObjectRef)) -> Result<(), String> {
    let kind = text(value, "/kind");
    if kind == "List" {
        let items = value.get("items").and_then(Value::as_array);
        return items
            .into_iter()
            .flatten()
            .try_for_each(|item| of_value(item, namespace, found));
    }
    let known = Kind::named(kind).ok_or_else(|| format!("kind {kind:?} is not supported by this version"))?;
    let name = text(value, "/metadata/name");
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    let own = text(value, "/metadata/namespace");
    found(ObjectRef {
        resource: Resource::of(known).plural().to_owned(),
        namespace: if own.is_empty() { namespace } else { own }.to_owned(),
        name: name.to_owned(),
    });
    Ok(())
}

/// Wait until an object is gone; with foreground cascade also what it owned.
async fn gone(client: &mut Client, args: &Delete, object: &ObjectRef, uid: &str) -> anyhow::Result<()> {
    let Some(resource) = Resource::named(&object.resource) else {
        return Ok(());
    };
    let which = Which {
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        selector: String::new(),
    };
    if resource.kind().is_some() && resource != Resource::Namespaces && !uid.is_empty() {
        wait::until(client, resource, &which, &Until::Gone(uid.to_owned())).await?;
    }
    if resource == Resource::Deployments && args.cascade == "foreground" {
        let which = Which {
            namespace: object.namespace.clone(),
            ..Which::default()
        };
        wait::until(
            client,
            Resource::Pods,
            &which,
            &Until::NoneOwnedBy(uid.to_owned()),
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_files_are_found_even_if_the_files_are_not_good() {
        let text = "kind: Service\nmetadata: {name: s, namespace: x}\nspec: {nonsense: 1}\n---\nkind: List\nitems:\n\
            - {kind: Pod, metadata: {name: p}}\n- {kind: Pod, metadata: {name: p}}\n";
        let source = |text: &str| {
            vec![Source {
                name: "f.yaml".to_owned(),
                text: text.to_owned(),
                json: false,
            }]
        };
        let found = of_files(&source(text), "default").expect("fine");
        let shown: Vec<String> = found
            .iter()
            .map(|object| format!("{} {}/{}", object.resource, object.namespace, object.name))
            .collect();
        assert_eq!(shown, ["services x/s", "pods default/p"]);
        for (text, expected) in [
            (
                "kind: Ingress\nmetadata: {name: a}\n",
                "f.yaml, document 1: kind \"Ingress\"",
            ),
            ("kind: Pod\n", "metadata.name is missing"),
            ("a: [", "f.yaml: document 1"),
        ] {
            let error = of_files(&source(text), "default").expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
