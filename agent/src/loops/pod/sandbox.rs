//! The steps around a pod's sandbox: cgroup, volumes, the sandbox itself, and giving them back.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use keelson_core::{
    object::Key,
    pod::{
        Sandbox,
        resources::{self, Qos},
        spec,
    },
};
use keelson_proto::cri::PodSandboxConfig;
use tracing::info;

use super::{dispatcher::Shared, images, messages, observe, resolver, roster::Poke};
use crate::{
    doors::{
        containerd::import::Importer,
        cri::{Error, client::image::wanted as wanted_sandbox_image},
    },
    world::Objects,
};

/// The node's own name servers.
const RESOLVER: &str = "/etc/resolv.conf";

/// Make the pod's cgroup with its limits.
pub async fn cgroup(shared: &Shared, pod: &Pod, objects: &Objects) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let (qos, limits) = (resources::qos(spec), resources::pod(spec));
    let burstable = (qos == Qos::Burstable).then(|| burstable_shares(objects));
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let cgroups = shared.doors.cgroups.clone();
    blocking(move || {
        if let Some(shares) = burstable {
            cgroups
                .set_burstable_shares(shares)
                .map_err(|error| error.to_string())?;
        }
        cgroups
            .ensure(qos, &uid, &limits)
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await
}

/// All Burstable pods share what they request together.
fn burstable_shares(objects: &Objects) -> u64 {
    let specs = objects.pods.values().filter_map(|pod| pod.spec.as_ref());
    specs
        .filter(|spec| resources::qos(spec) == Qos::Burstable)
        .map(|spec| resources::pod(spec).cpu_shares)
        .sum()
}

/// Make the pod's volumes, or bring them up to date.
pub async fn volumes(shared: &Shared, pod: &Arc<Pod>, objects: &Objects) -> Result<(), String> {
    if pod
        .spec
        .as_ref()
        .is_none_or(|spec| spec.volumes.as_ref().is_none_or(Vec::is_empty))
    {
        return Ok(());
    }
    let (volumes, pod, objects) = (shared.doors.volumes.clone(), pod.clone(), objects.clone());
    blocking(move || {
        volumes
            .prepare(&pod, &objects)
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await
}

/// The pod's sandbox as the runtime is told of it.
pub fn config(shared: &Shared, pod: &Pod, attempt: u32) -> PodSandboxConfig {
    let described = spec::sandbox(pod, attempt);
    let logs = shared
        .doors
        .volumes
        .log_directory(&described.namespace, &described.name, &described.uid);
    let cgroup = shared.doors.cgroups.path(described.qos, &described.uid);
    let node = || std::fs::read_to_string(RESOLVER).unwrap_or_default();
    let dns = pod.spec.as_ref().and_then(|spec| resolver::config(spec, node));
    messages::sandbox(&described, dns, &logs, &cgroup)
}

/// Run a sandbox in place of others, and learn its addresses.
pub async fn run(
    shared: &Shared,
    pod: &Pod,
    attempt: u32,
    replaces: &[String],
    poke: &Poke,
) -> Result<Sandbox, Error> {
    let runtime = &shared.doors.runtime;
    for id in replaces {
        // Its network is released with it.
        runtime.stop_sandbox(id).await?;
    }
    let config = config(shared, pod, attempt);
    let id = match runtime.run_sandbox(config.clone()).await {
        Err(error) => match wanted_sandbox_image(&error) {
            Some(image) => {
                embed(shared, image).await.map_err(|message| Error {
                    message,
                    ..error.clone()
                })?;
                runtime.run_sandbox(config).await?
            }
            None => return Err(error),
        },
        Ok(id) => id,
    };
    shared.roster.add(&id, poke);
    let status = runtime.sandbox_status(&id).await?;
    Ok(observe::sandbox(&status))
}

/// The runtime lacks the image it holds sandboxes with: give it the embedded one.
async fn embed(shared: &Shared, image: &str) -> Result<(), String> {
    info!(
        image,
        "the runtime has no sandbox image; the embedded one is stored under its name"
    );
    let describe = |error: crate::doors::containerd::import::Error| error.to_string();
    let mut importer = Importer::connect(&shared.doors.socket).await.map_err(describe)?;
    images::embed(&mut importer, image).await.map_err(describe)
}

/// Volumes and cgroup go; logs and the mark stay as long as the pod's object.
pub async fn release(shared: &Shared, uid: &str) -> Result<(), String> {
    let (doors, uid) = (shared.doors.clone(), uid.to_owned());
    blocking(move || {
        doors.volumes.remove(&uid).map_err(|error| error.to_string())?;
        doors.cgroups.remove(&uid).map_err(|error| error.to_string())
    })
    .await
}

/// Run what blocks on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(format!("it broke off: {error}")))
}

/// A pod's key, for messages.
pub fn key(pod: &Pod) -> Key {
    Key::of(&pod.metadata)
}
