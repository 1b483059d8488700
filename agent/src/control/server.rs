//! The calls of the control API, one by one.

mod writing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keelson_core::{
    explain::programmed::{Served, programmed},
    manifest::validate::Rules,
};
use keelson_proto::keelson::{
    ApplyRequest, ApplyResponse, CheckRequest, CheckResponse, DeleteRequest, DeleteResponse, ExecRequest,
    ExecResponse, ExplainRequest, ExplainResponse, ListRequest, ListResponse, LogsRequest, LogsResponse,
    ProgrammedRequest, ProgrammedResponse, ProgrammedService, VersionRequest, VersionResponse, WatchEvent,
    control_server::Control, watch_event::Type,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::{
    check, delete, exec, explain,
    list::{self, Listing, Query},
    logs,
    stream::{Driven, Sink, driven, send},
};
use crate::{config::Part, context::Context, doors::cri::Runtime, loops::manifests};

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

    async fn programmed(
        &self,
        _: Request<ProgrammedRequest>,
    ) -> Result<Response<ProgrammedResponse>, Status> {
        let Some(programs) = self.ctx.network.programs() else {
            return Ok(Response::new(ProgrammedResponse::default()));
        };
        let frontends = programs
            .frontends()
            .map_err(|error| Status::internal(format!("{error:#}")))?;
        let found = self
            .ctx
            .world
            .read(|objects| programmed(&frontends, &objects.services));
        let json = |served: &Served| serde_json::to_vec(served).map_err(unwritable);
        let services = found.iter().map(|(key, served)| {
            Ok(ProgrammedService {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                served: served.iter().map(json).collect::<Result<_, _>>()?,
            })
        });
        Ok(Response::new(ProgrammedResponse {
            services: services.collect::<Result<_, Status>>()?,
        }))
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
