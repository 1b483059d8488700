//! What the runtime shows of a pod, in the words of the decisions.
//!
//! A list says which sandboxes and containers there are and in which state; times, exit codes and addresses cost a call
//! each. Those are asked for once per state: they do not change within one.

use std::{collections::HashMap, net::IpAddr};

use jiff::Timestamp;
use keelson_core::pod::{Container, Sandbox, State, spec::label};
use keelson_proto::cri::{
    Container as Listed, ContainerState, ContainerStatus, PodSandbox, PodSandboxState, PodSandboxStatus,
};

use super::dispatcher::Shared;
use crate::doors::cri::{Error, ErrorKind, Runtime};

/// So much of a log stands in for a last word.
const FALLBACK_LINES: usize = 80;
const FALLBACK_BYTES: usize = 2048;

/// What was learnt and stays true.
#[derive(Default)]
pub struct Known {
    addresses: HashMap<String, Vec<IpAddr>>,
    containers: HashMap<String, Container>,
}

/// A pod's sandboxes and containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, without the verdicts of probes.
    pub containers: Vec<Container>,
}

impl Known {
    /// Look.
    pub async fn observe(&mut self, shared: &Shared, uid: &str) -> Result<Seen, Error> {
        let runtime = shared.doors.runtime.as_ref();
        let listing = runtime.list(Some(uid)).await?;
        let mut seen = Seen::default();
        for listed in &listing.sandboxes {
            if let Some(sandbox) = self.known_sandbox(runtime, listed).await? {
                seen.sandboxes.push(sandbox);
            }
        }
        for listed in &listing.containers {
            if let Some(container) = self.container(shared, uid, listed).await? {
                seen.containers.push(container);
            }
        }
        self.addresses
            .retain(|id, _| listing.sandboxes.iter().any(|sandbox| sandbox.id == *id));
        self.containers
            .retain(|id, _| listing.containers.iter().any(|container| container.id == *id));
        Ok(seen)
    }

    async fn known_sandbox(
        &mut self,
        runtime: &dyn Runtime,
        listed: &PodSandbox,
    ) -> Result<Option<Sandbox>, Error> {
        let ready = listed.state() == PodSandboxState::SandboxReady;
        let ips = match self.addresses.get(&listed.id) {
            Some(ips) => ips.clone(),
            // A dead one's addresses are somebody else's by now.
            None if !ready => Vec::new(),
            None => {
                let Some(status) = found(runtime.sandbox_status(&listed.id).await)? else {
                    return Ok(None);
                };
                let ips = addresses(&status);
                self.addresses.insert(listed.id.clone(), ips.clone());
                ips
            }
        };
        Ok(Some(Sandbox {
            id: listed.id.clone(),
            attempt: listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            ready,
            created_at: time(listed.created_at).unwrap_or_default(),
            ips,
        }))
    }

    async fn container(
        &mut self,
        shared: &Shared,
        uid: &str,
        listed: &Listed,
    ) -> Result<Option<Container>, Error> {
        let state = state(listed.state());
        if let Some(known) = self.containers.get(&listed.id)
            && known.state == state
        {
            return Ok(Some(known.clone()));
        }
        let Some(status) = found(shared.doors.runtime.container_status(&listed.id).await)? else {
            return Ok(None);
        };
        let asked = listed
            .image
            .as_ref()
            .map(|image| image.image.as_str())
            .unwrap_or_default();
        let mut container = describe(&listed.pod_sandbox_id, asked, &status);
        if container.state == State::Exited {
            container.message = last_word(shared, uid, &status, &container);
        }
        self.containers.insert(container.id.clone(), container.clone());
        Ok(Some(container))
    }
}

/// Something that vanished between the list and the look was removed by somebody: as if it had not been listed.
fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn addresses(status: &PodSandboxStatus) -> Vec<IpAddr> {
    let Some(network) = &status.network else {
        return Vec::new();
    };
    let more = network.additional_ips.iter().map(|address| &address.ip);
    std::iter::once(&network.ip)
        .chain(more)
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// A sandbox in the decisions' words.
pub fn sandbox(status: &PodSandboxStatus) -> Sandbox {
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state() == PodSandboxState::SandboxReady,
        created_at: time(status.created_at).unwrap_or_default(),
        ips: addresses(status),
    }
}

/// A container in the decisions' words. `asked` is the image as the pod names it: the status shows a name of the
/// runtime's own choice.
pub fn describe(sandbox: &str, asked: &str, status: &ContainerStatus) -> Container {
    let metadata = status.metadata.clone().unwrap_or_default();
    let image = status
        .image
        .as_ref()
        .map(|image| image.image.clone())
        .unwrap_or_default();
    Container {
        id: status.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        sandbox: sandbox.to_owned(),
        state: state(status.state()),
        hash: status.annotations.get(label::HASH).cloned().unwrap_or_default(),
        image: if asked.is_empty() { image } else { asked.to_owned() },
        image_id: if status.image_id.is_empty() {
            status.image_ref.clone()
        } else {
            status.image_id.clone()
        },
        created_at: time(status.created_at).unwrap_or_default(),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        startup: None,
        readiness: None,
        liveness: None,
    }
}

fn state(state: ContainerState) -> State {
    match state {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => State::Running,
        ContainerState::ContainerExited => State::Exited,
        ContainerState::ContainerUnknown => State::Unknown,
    }
}

/// Nanoseconds since 1970; 0 stands for "not yet".
fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0)
        .then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok())
        .flatten()
}

/// What the container left as its last word; its log where that is empty, asked for, and it failed.
fn last_word(shared: &Shared, uid: &str, status: &ContainerStatus, container: &Container) -> String {
    let volumes = &shared.doors.volumes;
    if let Some(message) = volumes.termination_message(uid, &container.name, container.attempt) {
        return message;
    }
    let fallback = status
        .annotations
        .get(label::TERMINATION_POLICY)
        .is_some_and(|policy| policy == "FallbackToLogsOnError");
    if fallback && container.exit_code != 0 {
        let log = std::path::Path::new(&status.log_path);
        if let Some(tail) = crate::doors::volumes::log::tail(log, FALLBACK_LINES, FALLBACK_BYTES) {
            return tail;
        }
    }
    container.message.clone()
}
