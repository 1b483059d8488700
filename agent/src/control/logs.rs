//! Logs: the files that the runtime writes below the folder of pods' logs, one per life of a container
//! (`<namespace>_<pod>_<uid>/<container>/<restarts>.log`), followed over rotation and over restarts of the container.

mod file;
pub mod line;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_core::object::Key;
use keelson_proto::keelson::{LogsRequest, LogsResponse};
use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;
use tonic::Status;

use self::{
    file::LogFile,
    line::{Format, Joiner},
};
use super::{
    containers,
    stream::{Sink, send},
};
use crate::{context::Context, world::World};

/// What is sent at once, about.
const MESSAGE: usize = 64 << 10;

/// A request understood.
#[derive(Debug)]
pub struct Plan {
    key: Key,
    uid: String,
    container: String,
    folder: PathBuf,
    /// The container's life to begin with; `None` = its first, which has not begun.
    attempt: Option<u32>,
    follow: bool,
    tail: Option<u64>,
    format: Format,
}

impl Plan {
    /// Understand a request; fails if there is nothing to show and nothing to wait for.
    pub fn new(ctx: &Context, request: LogsRequest) -> Result<Self, Status> {
        let pod = containers::pod(&ctx.world.snapshot(), &request.namespace, &request.pod)?;
        let container = containers::resolve(&pod, &request.container)?;
        let key = Key::of(&pod.metadata);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let folder = ctx
            .config
            .pod_logs
            .join(format!("{}_{}_{uid}", key.namespace, key.name))
            .join(&container);
        let attempts = attempts(&folder);
        let attempt = if request.previous {
            let before = attempts.len().checked_sub(2).map(|index| attempts[index]);
            let missing = || {
                Status::invalid_argument(format!(
                    "previous terminated container {container:?} in pod {:?} not found",
                    key.name
                ))
            };
            Some(before.ok_or_else(missing)?)
        } else {
            attempts.last().copied()
        };
        if attempt.is_none() && !request.follow {
            return Err(Status::failed_precondition(format!(
                "container {container:?} in pod {:?} is waiting to start: {}",
                key.name,
                containers::waiting_reason(&pod, &container)
            )));
        }
        let since = match request.since_unix_nanos {
            Some(nanos) => Some(
                Timestamp::from_nanosecond(nanos.into())
                    .map_err(|error| Status::invalid_argument(format!("since: {error}")))?,
            ),
            None => None,
        };
        let tail =
            match request.tail_lines {
                Some(lines) => Some(u64::try_from(lines).map_err(|_| {
                    Status::invalid_argument("the number of lines to show must not be negative")
                })?),
                None => None,
            };
        Ok(Self {
            key,
            uid,
            container,
            folder,
            attempt,
            // What has ended grows no more.
            follow: request.follow && !request.previous,
            tail,
            format: Format {
                timestamps: request.timestamps,
                since,
            },
        })
    }

    fn path(&self, attempt: u32) -> PathBuf {
        self.folder.join(format!("{attempt}.log"))
    }

    /// Whether the container may write more, now or after a restart.
    fn alive(&self, world: &World) -> bool {
        world
            .snapshot()
            .pods
            .get(&self.key)
            .filter(|pod| pod.metadata.uid.as_deref() == Some(&self.uid))
            .is_some_and(|pod| may_write(pod, &self.container))
    }
}

/// Lives of a container that left a log, oldest first.
fn attempts(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// Whether a container of this pod may write more: it runs, or it will be started (again).
pub fn may_write(pod: &Pod, container: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return false;
    }
    let ended = containers::status(pod, container)
        .and_then(|status| status.state.as_ref())
        .and_then(|state| state.terminated.as_ref());
    let Some(ended) = ended else {
        return true;
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .and_then(|list| list.iter().find(|one| one.name == container));
    match (init, policy) {
        (Some(init), _) if init.restart_policy.as_deref() == Some("Always") => true,
        (Some(_), "Never") => false,
        (Some(_), _) | (None, "OnFailure") => ended.exit_code != 0,
        (None, policy) => policy == "Always",
    }
}

/// Tells when something happens in a folder.
struct Bell {
    rung: Arc<Notify>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Bell {
    /// The folder may not be there yet: then the bell is mute, and the caller comes again when the pod changes.
    fn on(folder: &Path) -> Self {
        let rung = Arc::new(Notify::new());
        let ring = Arc::clone(&rung);
        let watcher = notify::recommended_watcher(move |_| ring.notify_one())
            .and_then(|mut watcher| {
                watcher
                    .watch(folder, RecursiveMode::NonRecursive)
                    .map(|()| watcher)
            })
            .ok();
        Self { rung, watcher }
    }

    fn is_mute(&self) -> bool {
        self.watcher.is_none()
    }
}

/// Send the log as planned.
pub async fn run(ctx: Context, plan: Plan, sink: Sink<LogsResponse>) -> Result<(), Status> {
    // Should the caller go, this future is dropped with the stream it feeds.
    let mut bell = Bell::on(&plan.folder);
    let mut revisions = ctx.world.watch();
    let mut shutdown = ctx.shutdown.clone();
    let mut sender = Sender::new(&plan, sink);
    let mut attempt = plan.attempt;
    let mut log = None;
    let mut tail = plan.tail;
    loop {
        let seen = *revisions.borrow_and_update();
        // Looked at before the file is read: what it wrote until its end is in the file by now.
        let alive = plan.follow && plan.alive(&ctx.world);
        if bell.is_mute() {
            bell = Bell::on(&plan.folder);
        }
        if attempt.is_none() {
            attempt = attempts(&plan.folder).first().copied();
        }
        if let (None, Some(attempt)) = (&log, attempt) {
            log = open(&plan.path(attempt), tail.take())?;
        }
        if let Some(current) = &mut log {
            sender.drain(current).await?;
            if plan.follow && current.replaced().map_err(unreadable)? {
                // What was written between reading and replacing.
                sender.drain(current).await?;
                log = None;
                continue;
            }
        }
        let next = attempts(&plan.folder)
            .into_iter()
            .find(|other| attempt.is_some_and(|attempt| *other > attempt));
        if plan.follow && next.is_some() {
            if let Some(current) = &mut log {
                sender.drain(current).await?;
            }
            sender.finish().await?;
            (attempt, log) = (next, None);
            continue;
        }
        if !alive {
            return sender.finish().await;
        }
        sender.flush().await?;
        let lost = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return Err(Status::unavailable("the agent is stopping")),
            () = bell.rung.notified() => false,
            moved = revisions.wait_for(|now| now.pods != seen.pods) => moved.is_err(),
        };
        if lost {
            return sender.finish().await;
        }
    }
}

fn open(path: &Path, tail: Option<u64>) -> Result<Option<LogFile>, Status> {
    let mut log = LogFile::open(path).map_err(unreadable)?;
    if let (Some(log), Some(lines)) = (&mut log, tail) {
        log.skip_to_tail(lines).map_err(unreadable)?;
    }
    Ok(log)
}

fn unreadable(error: std::io::Error) -> Status {
    Status::internal(format!("read the container's log: {error}"))
}

/// Raw lines in, messages out.
struct Sender {
    joiner: Joiner,
    text: Vec<u8>,
    sink: Sink<LogsResponse>,
}

impl Sender {
    fn new(plan: &Plan, sink: Sink<LogsResponse>) -> Self {
        Self {
            joiner: Joiner::new(plan.format),
            text: Vec::new(),
            sink,
        }
    }

    /// Read and send all there is.
    async fn drain(&mut self, log: &mut LogFile) -> Result<(), Status> {
        loop {
            let (joiner, text) = (&mut self.joiner, &mut self.text);
            let more = log.read(|raw| {
                // The runtime writes nothing else; a line cut by a full disk is left out.
                if let Some(raw) = line::parse(raw) {
                    joiner.push(&raw, text);
                }
            });
            if !more.map_err(unreadable)? {
                return Ok(());
            }
            if self.text.len() >= MESSAGE {
                self.flush().await?;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Status> {
        if self.text.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.text);
        send(self.sink.send(Ok(LogsResponse { data })).await)
    }

    async fn finish(&mut self) -> Result<(), Status> {
        self.joiner.finish(&mut self.text);
        self.flush().await
    }
}
