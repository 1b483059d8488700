//! The calls that change something: the folder of manifests is written, and the loops are waited for.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use keelson_core::manifest::{merge::Readings, object::Kind};
use keelson_proto::keelson::{Applied, ApplyRequest, DeleteRequest, Deleted, ObjectRef, applied::Action};
use tonic::Status;
use tracing::{info, warn};

use super::Server;
use crate::{
    control::{apply, delete, folder, resource::Resource, yaml_text},
    world::{Objects, World},
};

/// How long a call waits for the loops to take up what it wrote, so that the next command sees it.
const TAKE_UP: Duration = Duration::from_secs(2);

impl Server {
    fn manifests(&self) -> &Path {
        &self.ctx.config.manifests
    }

    fn read_folder(&self) -> Result<Readings, Status> {
        std::fs::create_dir_all(self.manifests()).map_err(|error| {
            Status::internal(format!("create folder {}: {error}", self.manifests().display()))
        })?;
        folder::read(self.manifests(), &self.rules)
            .map_err(|error| Status::internal(format!("read the folder of manifests: {error}")))
    }

    fn write(&self, step: &apply::Step) -> Result<(), Status> {
        let fail = |why: String| {
            Status::internal(format!(
                "write {}: {why}; objects named before it have been written",
                self.manifests().join(&step.file).display()
            ))
        };
        let text = yaml_text::yaml(&step.value).map_err(fail)?;
        folder::write(self.manifests(), &step.file, &text, step.id.kind == Kind::Secret)
            .map_err(|error| fail(error.to_string()))
    }

    pub(super) async fn apply_all(&self, request: ApplyRequest) -> Result<Vec<Applied>, Status> {
        let _writer = self.writing.lock().await;
        let before = self.ctx.world.snapshot();
        let readings = self.read_folder()?;
        let observed = apply::Observed {
            readings: &readings,
            reports: &before.manifests,
            allocated: &before.services,
            rules: &self.rules,
        };
        let steps = apply::plan(&request.sources, &request.namespace, &observed)
            .map_err(|problems| Status::invalid_argument(problems.join("\n")))?;
        let mut results = Vec::new();
        if !request.dry_run {
            for step in steps.iter().filter(|step| step.action != Action::Unchanged) {
                self.write(step)?;
                info!("apply: {} written to {}", step.id, step.file.display());
            }
        }
        for step in steps {
            let wait = !request.dry_run && step.action != Action::Unchanged;
            let warning = if wait {
                self.taken_up(&step, &before).await
            } else {
                String::new()
            };
            results.push(Applied {
                object: Some(reference(
                    Resource::of(step.id.kind),
                    &step.id.key.namespace,
                    &step.id.key.name,
                )),
                action: step.action.into(),
                file: step.file.display().to_string(),
                warning,
            });
        }
        Ok(results)
    }

    /// Wait until the manifests loop has read a written file; returns what the user should know.
    async fn taken_up(&self, step: &apply::Step, before: &Objects) -> String {
        let resource = Resource::of(step.id.kind);
        let version = |objects: &Objects| {
            delete::metadata(objects, resource, &step.id.key).map(|metadata| {
                (
                    metadata.uid.clone(),
                    metadata.resource_version.clone(),
                    metadata.deletion_timestamp.is_some(),
                )
            })
        };
        let old = version(before);
        let name = step.id.to_string();
        let seen = |objects: &Objects| -> Option<String> {
            let report = objects.manifests.get(&step.file)?;
            if !report.errors.is_empty() {
                return Some(format!("refused: {}", report.errors.join("; ")));
            }
            let fresh = version(objects) != old || step.id.kind == Kind::Namespace;
            (report.objects.contains(&name) && fresh).then(String::new)
        };
        until(&self.ctx.world, seen).await.unwrap_or_else(|| {
            "written, but the agent has not taken it up yet; see `keelson get manifests`".to_owned()
        })
    }

    pub(super) async fn delete_all(&self, request: DeleteRequest) -> Result<Vec<Deleted>, Status> {
        let _writer = self.writing.lock().await;
        if request.grace_seconds.is_some_and(|grace| grace < 0) {
            return Err(Status::invalid_argument("the grace period must not be negative"));
        }
        let objects = self.ctx.world.snapshot();
        let readings = self.read_folder()?;
        let observed = delete::Observed {
            readings: &readings,
            reports: &objects.manifests,
            objects: &objects,
        };
        let mut steps = Vec::new();
        for wanted in &request.objects {
            steps.extend(delete::plan(wanted, request.ignore_not_found, &observed).map_err(refusal)?);
        }
        for step in &steps {
            self.remove_file(step)?;
        }
        let mut results = Vec::new();
        for step in steps {
            // A pod that ended while its file was still taken for there would come again.
            self.forgotten(&step).await;
            if step.resource == Resource::Pods && !step.uid.is_empty() {
                self.ctx.world.update(|objects| {
                    objects.delete_pod(&step.key, &step.uid, request.grace_seconds, Timestamp::now())
                });
            }
            results.push(Deleted {
                object: Some(reference(step.resource, &step.key.namespace, &step.key.name)),
                uid: step.uid,
            });
        }
        Ok(results)
    }

    fn remove_file(&self, step: &delete::Step) -> Result<(), Status> {
        let Some(file) = &step.file else {
            return Ok(());
        };
        let path = self.manifests().join(file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Status::internal(format!("remove {}: {error}", path.display())))
            }
            _ => {
                info!(
                    "delete: {} {} removed with {}",
                    step.resource,
                    step.key,
                    file.display()
                );
                Ok(())
            }
        }
    }

    /// Wait until the manifests loop knows that a file is gone.
    async fn forgotten(&self, step: &delete::Step) {
        let Some(file) = &step.file else { return };
        let seen = |objects: &Objects| (!objects.manifests.contains_key(file)).then_some(());
        if until(&self.ctx.world, seen).await.is_none() {
            warn!(
                "delete: the manifests loop has not yet taken up that {} {} is gone",
                step.resource, step.key
            );
        }
    }
}

fn reference(resource: Resource, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        resource: resource.plural().to_owned(),
        namespace: if resource.namespaced() {
            namespace.to_owned()
        } else {
            String::new()
        },
        name: name.to_owned(),
    }
}

fn refusal(refusal: delete::Refusal) -> Status {
    match refusal {
        delete::Refusal::NotFound(why) => Status::not_found(why),
        delete::Refusal::Invalid(why) => Status::invalid_argument(why),
        delete::Refusal::NotOurs(why) => Status::failed_precondition(why),
    }
}

/// Wait until the world gives an answer; `None` if it does not in time.
async fn until<T>(world: &World, answer: impl Fn(&Objects) -> Option<T>) -> Option<T> {
    let mut revisions = world.watch();
    let wait = async {
        loop {
            revisions.borrow_and_update();
            if let Some(found) = answer(&world.snapshot()) {
                return Some(found);
            }
            revisions.changed().await.ok()?;
        }
    };
    tokio::time::timeout(TAKE_UP, wait).await.ok().flatten()
}
