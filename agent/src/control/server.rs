//! The calls of the control API, one by one.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use keelson_core::manifest::{merge::Readings, object::Kind, validate::Rules};
use keelson_proto::keelson::{
    Applied, ApplyRequest, ApplyResponse, CheckRequest, CheckResponse, DeleteRequest, DeleteResponse,
    Deleted, ExecRequest, ExecResponse, ExplainRequest, ExplainResponse, ListRequest, ListResponse,
    LogsRequest, LogsResponse, ObjectRef, VersionRequest, VersionResponse, WatchEvent, applied::Action,
    control_server::Control, watch_event::Type,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    apply, check, delete, exec, explain, folder,
    list::{self, Listing, Query},
    logs,
    resource::Resource,
    stream::{Driven, Sink, driven, send},
    yaml_text,
};
use crate::{
    config::Part,
    context::Context,
    doors::cri::Runtime,
    loops::manifests,
    world::{Objects, World},
};

/// How long a call waits for the loops to take up what it wrote, so that the next command sees it.
const TAKE_UP: Duration = Duration::from_secs(2);

/// How long after the agent's start a call waits until all pods were looked at, so that a restart shows nothing that is not so.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// The server.
pub struct Server {
    ctx: Context,
    started: Instant,
    runtime: Arc<dyn Runtime>,
    rules: Rules,
    /// One writer at a time: each decides by what it read.
    writing: Mutex<()>,
}

impl Server {
    /// A server on the agent's world and its runtime.
    pub fn new(ctx: Context, runtime: Arc<dyn Runtime>) -> Self {
        Self {
            rules: manifests::rules(&ctx.config),
            ctx,
            started: Instant::now(),
            runtime,
            writing: Mutex::new(()),
        }
    }

    /// Wait until what there is to see is known, for as long as the agent is young; a runtime that is away shows then.
    async fn first_look(&self) {
        let mut revisions = self.ctx.world.watch();
        while !self.ctx.world.snapshot().pods_are_known() {
            let left = FIRST_LOOK.saturating_sub(self.started.elapsed());
            if left.is_zero() || tokio::time::timeout(left, revisions.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Fails where the agent carries Services only.
    fn runs_pods(&self) -> Result<(), Status> {
        match self.ctx.config.part {
            Part::Node => Ok(()),
            Part::Proxy => Err(Status::failed_precondition(
                "this agent runs as `keelson proxy`: it carries Services and knows no pods, workloads and container runtime; \
                 ask the kubelet of this node, or the API server",
            )),
        }
    }

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

    async fn apply_all(&self, request: ApplyRequest) -> Result<Vec<Applied>, Status> {
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

    async fn delete_all(&self, request: DeleteRequest) -> Result<Vec<Deleted>, Status> {
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

/// Send what is there, then what changes, until the caller goes or the agent stops.
async fn watch(ctx: Context, query: Query, sink: Sink<WatchEvent>) -> Result<(), Status> {
    let mut revisions = ctx.world.watch();
    let mut shutdown = ctx.shutdown.clone();
    let mut known = Listing::new();
    let mut first = true;
    loop {
        let seen = *revisions.borrow_and_update();
        let now = query.list(&ctx.world.snapshot()).map_err(unwritable)?;
        for event in list::changes(&known, &now) {
            send(sink.send(Ok(event)).await)?;
        }
        known = now;
        if std::mem::take(&mut first) {
            let bookmark = WatchEvent {
                r#type: Type::Bookmark.into(),
                object: Vec::new(),
            };
            send(sink.send(Ok(bookmark)).await)?;
        }
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return Err(Status::unavailable("the agent is stopping")),
            moved = revisions.wait_for(|now| query.revision(now) != query.revision(&seen)) => {
                if moved.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn unwritable(error: serde_json::Error) -> Status {
    Status::internal(format!("write an object as JSON: {error}"))
}

#[tonic::async_trait]
impl Control for Server {
    type WatchStream = Driven<WatchEvent>;
    type LogsStream = Driven<LogsResponse>;
    type ExecStream = Driven<ExecResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.ctx.config.node_name.clone(),
        }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let results = self.apply_all(request.into_inner()).await?;
        Ok(Response::new(ApplyResponse { results }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let results = self.delete_all(request.into_inner()).await?;
        Ok(Response::new(DeleteResponse { results }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let request = request.into_inner();
        let query = Query::parse(&request).map_err(Status::invalid_argument)?;
        if query
            .resource
            .kind()
            .is_some_and(|kind| !kind.concerns_services())
        {
            self.runs_pods()?;
        }
        self.first_look().await;
        let found = query.list(&self.ctx.world.snapshot()).map_err(unwritable)?;
        if found.is_empty() && !request.name.is_empty() {
            return Err(Status::not_found(delete::not_found(
                query.resource,
                &request.name,
            )));
        }
        Ok(Response::new(ListResponse {
            objects: found.into_values().collect(),
        }))
    }

    async fn watch(&self, request: Request<ListRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let query = Query::parse(request.get_ref()).map_err(Status::invalid_argument)?;
        if query
            .resource
            .kind()
            .is_some_and(|kind| !kind.concerns_services())
        {
            self.runs_pods()?;
        }
        self.first_look().await;
        let ctx = self.ctx.clone();
        Ok(Response::new(driven(|sink| watch(ctx, query, sink))))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.runs_pods()?;
        let plan = logs::Plan::new(&self.ctx, request.into_inner())?;
        let ctx = self.ctx.clone();
        Ok(Response::new(driven(|sink| logs::run(ctx, plan, sink))))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        self.runs_pods()?;
        let mut input = request.into_inner();
        let session = exec::Session::open(&self.ctx, &*self.runtime, &mut input).await?;
        Ok(Response::new(driven(|sink| session.run(input, sink))))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let ctx = self.ctx.clone();
        let explained = tokio::task::spawn_blocking(move || explain::explain(&ctx, request.get_ref())).await;
        let explanation = explained.map_err(|error| Status::internal(format!("explain: {error}")))??;
        let explanation = serde_json::to_vec(&explanation).map_err(unwritable)?;
        Ok(Response::new(ExplainResponse { explanation }))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let places = check::Places::of(&self.ctx.config);
        let (mut findings, runtime) = match self.ctx.config.part {
            Part::Node => (
                check::node(&places).await,
                check::runtime_name(&*self.runtime).await,
            ),
            Part::Proxy => (check::proxy(&places).await, String::new()),
        };
        findings.extend(check::agent(&self.ctx.health, &runtime));
        Ok(Response::new(CheckResponse { findings }))
    }
}
