//! The last good state of every file, kept in the store with the UIDs.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use keelson_core::manifest::{defaults, merge::Accepted, object::Object};
use serde_json::{Value, json};
use tracing::error;

use crate::doors::store::{Error, Store, kind};

/// What the store holds, so that only differences are written.
pub(super) struct Saved {
    store: Arc<dyn Store>,
    records: BTreeMap<String, Value>,
}

impl Saved {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            records: BTreeMap::new(),
        }
    }

    /// What ran when the agent stopped, and what of it was lost.
    pub(super) fn load(&mut self, node_name: &str) -> (Accepted, Vec<String>) {
        let (mut accepted, mut lost) = (Accepted::new(), Vec::new());
        let records = self.store.list(kind::MANIFESTS).unwrap_or_else(|error| {
            lost.push(error.to_string());
            Vec::new()
        });
        for (id, value) in records {
            let objects = match &value {
                Ok(value) => {
                    objects_of(value, node_name).map_err(|cause| format!("record of manifest {id}: {cause}"))
                }
                Err(error) => Err(error.to_string()),
            };
            match objects {
                Ok(objects) => drop(accepted.insert(PathBuf::from(&id), objects)),
                Err(message) => lost.push(message),
            }
            // What was lost is known too: the next save replaces or removes it.
            self.records.insert(id, value.unwrap_or_default());
        }
        for message in &lost {
            error!("last good manifests: {message}");
        }
        (accepted, lost)
    }

    /// Bring the store to `accepted`. What failed is tried again by the next call.
    pub(super) async fn save(&mut self, accepted: &Accepted) -> Result<(), Error> {
        let wanted: BTreeMap<String, Value> = accepted
            .iter()
            .map(|(path, objects)| {
                let objects: Vec<Value> = objects
                    .iter()
                    .filter_map(|object| object.to_value().ok())
                    .collect();
                (path.to_string_lossy().into_owned(), json!({ "objects": objects }))
            })
            .collect();
        let gone: Vec<String> = self
            .records
            .keys()
            .filter(|id| !wanted.contains_key(*id))
            .cloned()
            .collect();
        let changed: Vec<(String, Value)> = wanted
            .into_iter()
            .filter(|(id, value)| self.records.get(id) != Some(value))
            .collect();
        if gone.is_empty() && changed.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        // The disk may take its time; other tasks of this thread must not wait for it.
        let work = tokio::task::spawn_blocking(move || {
            let (mut done, mut failed) = (Vec::new(), None);
            for (id, value) in changed {
                match store.put(kind::MANIFESTS, &id, &value) {
                    Ok(()) => done.push((id, Some(value))),
                    Err(error) => failed = Some(error),
                }
            }
            for id in gone {
                match store.remove(kind::MANIFESTS, &id) {
                    Ok(()) => done.push((id, None)),
                    Err(error) => failed = Some(error),
                }
            }
            (done, failed)
        });
        let Ok((done, failed)) = work.await else {
            // The runtime is shutting down.
            return Ok(());
        };
        for (id, value) in done {
            match value {
                Some(value) => drop(self.records.insert(id, value)),
                None => drop(self.records.remove(&id)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn objects_of(value: &Value, node_name: &str) -> Result<Vec<Object>, String> {
    let list = value
        .get("objects")
        .and_then(Value::as_array)
        .ok_or("no list of objects")?;
    let object = |value: &Value| {
        let mut object = Object::from_value(value.clone())?;
        // An older version may have known fewer defaults; without them every pod would look changed and be replaced.
        defaults::object(&mut object, node_name);
        Ok(object)
    };
    list.iter().map(object).collect()
}
