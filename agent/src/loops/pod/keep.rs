//! What a pod's worker must still know after a restart of the agent: little, since the runtime keeps the rest.
//!
//! The mark that a pod is over for good (a phase that is terminal never changes again), the probes' verdicts (a
//! restart of the agent must not take a ready pod out of its Services), and what was said of the pod last: times, counts
//! and a failed phase cannot all be read from the runtime again.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::PodStatus;
use serde::{Deserialize, Serialize};

use super::probing::{Board, Kind};
use crate::doors::store::{Store, kind};

/// A pod's record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The pod reached its end.
    pub terminated: bool,
    /// The node refused it for good: reason and message.
    pub rejected: Option<(String, String)>,
    /// Verdicts by container id.
    pub probes: BTreeMap<String, Verdicts>,
    /// What was said of it last, once it was ready or over: a pod that starts is not held up by the disk.
    pub status: Option<PodStatus>,
}

/// A container's verdicts; absent = not decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdicts {
    /// Startup probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<bool>,
    /// Readiness probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<bool>,
}

/// Reads and writes one pod's record.
pub struct Keep {
    store: Arc<dyn Store>,
    uid: String,
    /// As it is on disk.
    written: Record,
    /// The status to be kept, once there is one worth it.
    pub arrived: Option<PodStatus>,
    /// Whether this worker has said anything of the pod yet.
    pub said: bool,
}

impl Keep {
    /// A pod's record, as it was left. One that cannot be read is as good as none.
    pub fn open(store: Arc<dyn Store>, uid: &str) -> Self {
        let written = match store.get(kind::POD_STATES, uid) {
            Ok(value) => value
                .and_then(|value| serde_json::from_value(value).ok())
                .unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "a pod's kept state is lost; its probes start anew");
                Record::default()
            }
        };
        Self {
            store,
            uid: uid.to_owned(),
            arrived: written.status.clone(),
            said: false,
            written,
        }
    }

    /// What is kept.
    pub fn record(&self) -> &Record {
        &self.written
    }

    /// A status was told. A pod that starts is not held up by the disk: only once it got where it was to get, it is kept.
    pub fn tell(&mut self, status: &PodStatus) {
        self.said = true;
        if self.arrived.is_some() || has_arrived(status) {
            self.arrived = Some(status.clone());
        }
    }

    /// Write the record if it differs from what is kept.
    pub fn write(&mut self, record: Record) {
        if record == self.written {
            return;
        }
        let value = match serde_json::to_value(&record) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(%error, uid = self.uid, "a pod's state cannot be written down");
                return;
            }
        };
        match self.store.put(kind::POD_STATES, &self.uid, &value) {
            Ok(()) => self.written = record,
            // Tried again with the next change; what is lost is readiness across a restart.
            Err(error) => tracing::warn!(%error, "a pod's state was not kept"),
        }
    }

    /// The pod is gone.
    pub fn remove(&self) {
        if let Err(error) = self.store.remove(kind::POD_STATES, &self.uid) {
            tracing::warn!(%error, "a pod's kept state was left behind");
        }
    }
}

/// Ready, or over.
fn has_arrived(status: &PodStatus) -> bool {
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut conditions = status.conditions.iter().flatten();
    over || conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Put what was kept on the board.
pub fn restore(record: &Record, board: &Board) {
    for (id, verdicts) in &record.probes {
        for (kind, verdict) in [
            (Kind::Startup, verdicts.startup),
            (Kind::Readiness, verdicts.readiness),
        ] {
            if let Some(good) = verdict {
                board.set(id, kind, good);
            }
        }
    }
}

/// What of the board is to be kept, for these containers.
pub fn verdicts<'a>(board: &Board, ids: impl Iterator<Item = &'a str>) -> BTreeMap<String, Verdicts> {
    ids.map(|id| {
        let verdicts = Verdicts {
            startup: board.get(id, Kind::Startup),
            readiness: board.get(id, Kind::Readiness),
        };
        (id.to_owned(), verdicts)
    })
    .filter(|(_, verdicts)| *verdicts != Verdicts::default())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::{store::FileStore, temporary::Folder};

    #[test]
    fn what_is_kept_survives_and_comes_back_to_the_board() {
        let folder = Folder::new("keep");
        let store: Arc<dyn Store> = Arc::new(FileStore::new(folder.path()));
        let board = Board::default();
        board.set("c1", Kind::Readiness, true);
        board.set("c1", Kind::Liveness, false);
        let mut keep = Keep::open(store.clone(), "u-1");
        assert_eq!(*keep.record(), Record::default());
        let probes = verdicts(&board, ["c1", "c2"].into_iter());
        keep.write(Record {
            terminated: true,
            rejected: None,
            probes,
            status: None,
        });

        let keep = Keep::open(store.clone(), "u-1");
        assert!(keep.record().terminated);
        let board = Board::default();
        restore(keep.record(), &board);
        assert_eq!(board.get("c1", Kind::Readiness), Some(true));
        assert_eq!(board.get("c1", Kind::Liveness), None, "asked anew");
        keep.remove();
        assert_eq!(*Keep::open(store, "u-1").record(), Record::default());
    }
}
