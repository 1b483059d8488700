//! Pods and generations of Deployments in the store.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use keelson_core::{
    manifest::defaults,
    workload::{Generation, template},
};
use serde_json::Value;
use tracing::error;

use crate::{
    doors::store::{Error, Store, kind},
    world::Objects,
};

/// What the store holds, so that only differences are written.
pub(super) struct Saved {
    store: Arc<dyn Store>,
    pods: BTreeMap<String, (ObjectMeta, Option<PodSpec>)>,
    generations: BTreeMap<String, Vec<Generation>>,
    /// Records that could not be read: the next save removes or replaces them.
    damaged: Vec<(&'static str, String)>,
}

/// Kind, id, and the value; `None` = remove the record.
type Write = (&'static str, String, Option<Value>);

/// Pods that Deployments made before the agent was started, and what of them was lost. They must be in the world before
/// anything else is taken to be complete, else their containers would be orphans.
pub fn restore(store: &dyn Store) -> (Vec<Pod>, Vec<String>) {
    let (mut pods, mut lost) = (Vec::new(), Vec::new());
    let records = store.list(kind::PODS).unwrap_or_else(|error| {
        lost.push(error.to_string());
        Vec::new()
    });
    for (id, value) in records {
        match value
            .map_err(|error| error.to_string())
            .and_then(|value| pod_of(&id, value))
        {
            Ok(pod) => pods.push(pod),
            Err(message) => lost.push(message),
        }
    }
    (pods, lost)
}

fn pod_of(id: &str, value: Value) -> Result<Pod, String> {
    let pod: Pod = serde_json::from_value(value).map_err(|error| format!("record of pod {id}: {error}"))?;
    if pod.metadata.name.is_none() || pod.spec.is_none() || pod.metadata.uid.as_deref() != Some(id) {
        return Err(format!("record of pod {id}: it is not that pod's"));
    }
    Ok(pod)
}

impl Saved {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            pods: BTreeMap::new(),
            generations: BTreeMap::new(),
            damaged: Vec::new(),
        }
    }

    /// Learn what the store holds; the generations are returned.
    pub(super) fn load(&mut self) -> BTreeMap<String, Vec<Generation>> {
        for (id, value) in self.list(kind::PODS) {
            match value.and_then(|value| pod_of(&id, value).ok()) {
                Some(pod) => drop(self.pods.insert(id, (pod.metadata, pod.spec))),
                None => self.damaged.push((kind::PODS, id)),
            }
        }
        for (id, value) in self.list(kind::DEPLOYMENTS) {
            match value.and_then(|value| serde_json::from_value::<Vec<Generation>>(value).ok()) {
                Some(generations) => drop(self.generations.insert(id, generations)),
                None => self.damaged.push((kind::DEPLOYMENTS, id)),
            }
        }
        let mut generations = self.generations.clone();
        // An older version may have known fewer defaults; without them every template would look new.
        let templates = generations
            .values_mut()
            .flatten()
            .filter_map(|one| one.template.as_mut());
        templates
            .filter_map(|template| template.spec.as_mut())
            .for_each(defaults::pod_spec);
        generations
    }

    fn list(&self, kind: &'static str) -> Vec<(String, Option<Value>)> {
        let records = self.store.list(kind).unwrap_or_else(|error| {
            error!("Deployments' state: {error}; it is made anew from the pods");
            Vec::new()
        });
        let readable = |(id, value): (String, Result<Value, Error>)| {
            let value = value
                .inspect_err(|error| error!("Deployments' state: {error}; it is made anew from the pods"));
            (id, value.ok())
        };
        records.into_iter().map(readable).collect()
    }

    /// Bring the store to what the world and the plans say. What failed is tried again by the next call.
    pub(super) async fn save(
        &mut self,
        objects: &Objects,
        generations: &BTreeMap<String, Vec<Generation>>,
    ) -> Result<(), Error> {
        let mut pods = BTreeMap::new();
        for pod in objects.pods.values().filter(|pod| template::owner(pod).is_some()) {
            if let Some(uid) = &pod.metadata.uid {
                pods.insert(uid.clone(), (pod.metadata.clone(), pod.spec.clone()));
            }
        }
        let mut writes: Vec<Write> = Vec::new();
        for (uid, (metadata, spec)) in pods.iter().filter(|(uid, pod)| self.pods.get(*uid) != Some(pod)) {
            let pod = Pod {
                metadata: metadata.clone(),
                spec: spec.clone(),
                status: None,
            };
            writes.push((kind::PODS, uid.clone(), serde_json::to_value(pod).ok()));
        }
        for (uid, wanted) in generations
            .iter()
            .filter(|(uid, wanted)| self.generations.get(*uid) != Some(wanted))
        {
            writes.push((kind::DEPLOYMENTS, uid.clone(), serde_json::to_value(wanted).ok()));
        }
        let gone = self.pods.keys().filter(|uid| !pods.contains_key(*uid));
        writes.extend(gone.map(|uid| (kind::PODS, uid.clone(), None)));
        let gone = self
            .generations
            .keys()
            .filter(|uid| !generations.contains_key(*uid));
        writes.extend(gone.map(|uid| (kind::DEPLOYMENTS, uid.clone(), None)));
        let damaged = std::mem::take(&mut self.damaged);
        let replaced = |kind: &str, id: &str| writes.iter().any(|(of, other, _)| *of == kind && other == id);
        let useless: Vec<_> = damaged
            .into_iter()
            .filter(|(kind, id)| !replaced(kind, id))
            .collect();
        writes.extend(useless.into_iter().map(|(kind, id)| (kind, id, None)));
        if writes.is_empty() {
            return Ok(());
        }
        let failed = self.write(writes).await;
        // What could not be written stays as the store has it, different from what is wanted: it is written again.
        let failed_ids = |kind: &str| -> Vec<&String> {
            failed
                .iter()
                .filter(|(of, ..)| *of == kind)
                .map(|(_, id, _)| id)
                .collect()
        };
        settle(&mut self.pods, pods, &failed_ids(kind::PODS));
        settle(
            &mut self.generations,
            generations.clone(),
            &failed_ids(kind::DEPLOYMENTS),
        );
        failed
            .into_iter()
            .next()
            .map_or(Ok(()), |(_, _, error)| Err(error))
    }

    /// Write off this thread; what failed is returned.
    async fn write(&self, writes: Vec<Write>) -> Vec<(&'static str, String, Error)> {
        let store = Arc::clone(&self.store);
        // The disk may take its time; other tasks of this thread must not wait for it.
        let work = tokio::task::spawn_blocking(move || {
            let mut failed = Vec::new();
            for (kind, id, value) in writes {
                let done = match &value {
                    Some(value) => store.put(kind, &id, value),
                    None => store.remove(kind, &id),
                };
                if let Err(error) = done {
                    failed.push((kind, id, error));
                }
            }
            failed
        });
        // It only fails when the runtime is shutting down.
        work.await.unwrap_or_default()
    }
}

/// Take over `wanted`, except for the ids that failed.
fn settle<T: Clone>(known: &mut BTreeMap<String, T>, wanted: BTreeMap<String, T>, failed: &[&String]) {
    let before = std::mem::replace(known, wanted);
    for id in failed {
        match before.get(*id) {
            Some(value) => drop(known.insert((*id).clone(), value.clone())),
            None => drop(known.remove(*id)),
        }
    }
}
