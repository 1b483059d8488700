//! Which pods a command means: `POD`, `pod/POD` or `deployment/NAME`.

use anyhow::{anyhow, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};

use super::{
    client::{self, Client, Which, refused},
    columns,
    describe::selector_text,
};
use crate::control::{containers, resource::Resource};

/// The pod that is meant by `target`.
pub async fn one(client: &mut Client, namespace: &str, target: &str) -> anyhow::Result<Pod> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let resource =
        Resource::named(kind).ok_or_else(|| anyhow!("error: {}", crate::control::list::unknown(kind)))?;
    let which = Which {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        selector: String::new(),
    };
    let found = client::list(client, resource, &which)
        .await
        .map_err(|status| refused(&status))?;
    let Some(object) = found.first() else {
        bail!("error: {target} is not there");
    };
    match resource {
        Resource::Pods => Ok(columns::read(object)?),
        Resource::Deployments => {
            let deployment: Deployment = columns::read(object)?;
            let selector = selector_text(&deployment.spec.unwrap_or_default().selector);
            let mut pods = selected(client, namespace, &selector).await?;
            // One that runs says more than one that does not.
            pods.sort_by_key(rank);
            pods.into_iter()
                .next()
                .ok_or_else(|| anyhow!("error: {target} has no pods; see `keelson describe {target}`"))
        }
        _ => bail!("error: {target}: only pods and deployments have containers"),
    }
}

/// Pods with these labels.
pub async fn selected(client: &mut Client, namespace: &str, selector: &str) -> anyhow::Result<Vec<Pod>> {
    let which = Which {
        namespace: namespace.to_owned(),
        name: String::new(),
        selector: selector.to_owned(),
    };
    let found = client::list(client, Resource::Pods, &which)
        .await
        .map_err(|status| refused(&status))?;
    found.iter().map(|pod| Ok(columns::read(pod)?)).collect()
}

fn rank(pod: &Pod) -> u8 {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match (pod.metadata.deletion_timestamp.is_some(), phase) {
        (false, Some("Running")) => 0,
        (false, _) => 1,
        (true, _) => 2,
    }
}

/// The container that is meant; says which one it takes where the user left a choice.
pub fn container(pod: &Pod, wanted: Option<&str>) -> anyhow::Result<String> {
    let names: Vec<&str> = containers::names(pod).collect();
    if let Some(wanted) = wanted {
        if names.contains(&wanted) {
            return Ok(wanted.to_owned());
        }
        bail!(
            "error: container {wanted} is not valid for pod {}; it has {}",
            pod.metadata.name.as_deref().unwrap_or_default(),
            names.join(", ")
        );
    }
    let chosen = containers::default_of(pod).unwrap_or_default();
    let annotated = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(containers::DEFAULT_CONTAINER));
    if names.len() > 1 && !annotated {
        eprintln!("Defaulted container {chosen:?} out of: {}", names.join(", "));
    }
    Ok(chosen.to_owned())
}

/// A pod's name.
pub fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
