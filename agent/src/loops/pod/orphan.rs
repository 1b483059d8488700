//! What is on the machine though no pod of the world asks for it: sandboxes, containers, directories, cgroups.
//!
//! Only what carries a pod's labels is touched: what others made in the runtime is theirs.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use keelson_core::{object::Key, pod::spec::label};
use tracing::{info, warn};

use super::dispatcher::{Shared, by_uid};
use crate::doors::cri::{Error, Listing};

/// Time for an orphan's processes to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// A failed removal is tried again with the next list; within one run so often.
const TRIES: u32 = 5;

/// UIDs without a pod, with the name they had where that is known.
pub async fn find(shared: &Shared) -> Result<BTreeMap<String, Option<Key>>, Error> {
    // The world first would take a pod that came in between for an orphan.
    let listing = shared.doors.runtime.list(None).await?;
    let volumes = shared.doors.volumes.clone();
    let cgroups = shared.doors.cgroups.clone();
    let leftovers = tokio::task::spawn_blocking(move || [volumes.pods(), cgroups.pods()].concat());
    let mut found = owners(&listing);
    for uid in leftovers.await.unwrap_or_default() {
        found.entry(uid).or_insert(None);
    }
    let objects = shared.ctx.world.snapshot();
    let wanted = by_uid(&objects.pods);
    found.retain(|uid, _| !wanted.contains_key(uid.as_str()));
    Ok(found)
}

fn owners(listing: &Listing) -> BTreeMap<String, Option<Key>> {
    let sandboxes = listing.sandboxes.iter().map(|sandbox| &sandbox.labels);
    let containers = listing.containers.iter().map(|container| &container.labels);
    sandboxes.chain(containers).filter_map(owner).collect()
}

fn owner(labels: &HashMap<String, String>) -> Option<(String, Option<Key>)> {
    let uid = labels.get(label::POD_UID).filter(|uid| !uid.is_empty())?;
    let key = labels.get(label::POD_NAME).zip(labels.get(label::POD_NAMESPACE));
    Some((
        uid.clone(),
        key.map(|(name, namespace)| Key::new(namespace, name)),
    ))
}

/// Remove everything of a UID.
pub async fn remove(shared: &Shared, uid: &str, key: Option<&Key>) {
    let name = key.map_or_else(|| uid.to_owned(), ToString::to_string);
    info!(
        pod = name,
        uid, "on this machine, but asked for by nobody: removed"
    );
    for attempt in 0..TRIES {
        match attempt_removal(shared, uid, key).await {
            Ok(()) => return,
            Err(error) => warn!(pod = name, uid, error = format!("{error:#}"), "not removed yet"),
        }
        tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
    }
}

async fn attempt_removal(shared: &Shared, uid: &str, key: Option<&Key>) -> anyhow::Result<()> {
    let runtime = &shared.doors.runtime;
    let listing = runtime.list(Some(uid)).await?;
    let stops = listing
        .containers
        .iter()
        .map(|container| runtime.stop(&container.id, GRACE));
    for stopped in futures::future::join_all(stops).await {
        stopped?;
    }
    for sandbox in &listing.sandboxes {
        runtime.stop_sandbox(&sandbox.id).await?;
        runtime.remove_sandbox(&sandbox.id).await?;
    }
    clean(shared, uid, key).await
}

/// The rest of a pod that has no container any more: volumes, cgroup, logs, kept state.
pub async fn clean(shared: &Shared, uid: &str, key: Option<&Key>) -> anyhow::Result<()> {
    let doors = shared.doors.clone();
    let (uid, key) = (uid.to_owned(), key.cloned());
    tokio::task::spawn_blocking(move || {
        doors.volumes.remove(&uid)?;
        doors.cgroups.remove(&uid)?;
        if let Some(key) = key {
            doors.volumes.remove_logs(&key.namespace, &key.name, &uid)?;
        }
        super::keep::Keep::open(doors.store, &uid).remove();
        anyhow::Ok(())
    })
    .await?
}

#[cfg(test)]
mod tests {
    use keelson_proto::cri::PodSandbox;

    use super::*;

    #[test]
    fn only_what_carries_a_pods_labels_has_an_owner() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let sandbox = |pairs| PodSandbox {
            labels: labels(pairs),
            ..PodSandbox::default()
        };
        let listing = Listing {
            sandboxes: vec![
                sandbox(&[
                    (label::POD_UID, "u-1"),
                    (label::POD_NAME, "web"),
                    (label::POD_NAMESPACE, "shop"),
                ]),
                sandbox(&[(label::POD_UID, "u-2")]),
                sandbox(&[(label::POD_UID, "")]),
                sandbox(&[("somebody", "else")]),
            ],
            containers: vec![],
        };
        let expected = BTreeMap::from([
            ("u-1".to_owned(), Some(Key::new("shop", "web"))),
            ("u-2".to_owned(), None),
        ]);
        assert_eq!(owners(&listing), expected);
    }
}
