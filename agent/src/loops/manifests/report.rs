//! What the manifests loop says of the files: in the world, as events, and in the log.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use keelson_core::{manifest::merge::Merged, object::Key};
use tracing::{error, info, warn};

use super::ManifestsLoop;
use crate::{
    events::{self, Subject},
    world::ManifestReport,
};

/// The folder itself, among the files.
const FOLDER: &str = ".";

impl ManifestsLoop {
    /// Say what runs from each file and what is wrong with it, in the world; what is new also as event and in the log.
    pub(super) fn report(&self) {
        let reports: BTreeMap<PathBuf, ManifestReport> = self
            .readings
            .keys()
            .map(|path| (path.clone(), report_of(path, &self.merged)))
            .collect();
        let before = self.ctx.world.snapshot().manifests;
        for (path, report) in &reports {
            let errors = before
                .get(path)
                .map(|before| before.errors.as_slice())
                .unwrap_or_default();
            if report.errors == errors {
                continue;
            }
            let name = path.display().to_string();
            if report.errors.is_empty() {
                info!("manifest {name}: good again");
                self.event(
                    &name,
                    events::NORMAL,
                    "ManifestAccepted",
                    "the manifest is good again",
                );
            } else {
                let kept = if report.objects.is_empty() {
                    "nothing runs from it"
                } else {
                    "its last good state goes on"
                };
                let message = format!("{}; {kept}", report.errors.join("; "));
                warn!("manifest {name}: {message}");
                self.event(&name, events::WARNING, "ManifestRefused", &message);
            }
        }
        self.set_reports(|manifests| {
            manifests.retain(|path, _| reports.contains_key(path) || path == Path::new(FOLDER));
            manifests.extend(reports);
        });
    }

    /// The folder's own trouble stands beside the files under the name `.`.
    pub(super) fn report_trouble(&self) {
        let before = self.ctx.world.snapshot().manifests.remove(Path::new(FOLDER));
        let errors: Vec<String> = self.trouble.iter().cloned().collect();
        if before.map(|report| report.errors).unwrap_or_default() == errors {
            return;
        }
        match &self.trouble {
            Some(trouble) => {
                error!("folder of manifests: {trouble}; what runs goes on unchanged");
                self.event(FOLDER, events::WARNING, "ManifestsUnreadable", trouble);
            }
            None => info!("folder of manifests: readable again"),
        }
        self.set_reports(|manifests| {
            manifests.remove(Path::new(FOLDER));
            if !errors.is_empty() {
                manifests.insert(
                    FOLDER.into(),
                    ManifestReport {
                        objects: Vec::new(),
                        errors,
                    },
                );
            }
        });
    }

    fn set_reports(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, ManifestReport>)) {
        self.ctx.world.update(|objects| {
            let before = objects.manifests.clone();
            change(&mut objects.manifests);
            if objects.manifests != before {
                objects.revisions.manifests += 1;
            }
        });
    }

    pub(super) fn event(&self, name: &str, type_: &str, reason: &str, message: &str) {
        let subject = Subject {
            kind: "Manifest",
            key: Key::new("default", name),
            uid: None,
            field: None,
        };
        let event = events::event(subject, type_, reason, message, Timestamp::now());
        self.ctx.world.update(|objects| objects.record(event));
    }
}

fn report_of(path: &Path, merged: &Merged) -> ManifestReport {
    let objects = merged
        .accepted
        .get(path)
        .into_iter()
        .flatten()
        .map(|object| object.id().to_string());
    ManifestReport {
        objects: objects.collect(),
        errors: merged.problems.get(path).cloned().unwrap_or_default(),
    }
}
