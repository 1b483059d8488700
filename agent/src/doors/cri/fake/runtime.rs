//! The calls.

use std::time::Duration;

use keelson_proto::cri::{
    Container, ContainerConfig, ContainerState, ContainerStatus, LinuxContainerResources, PodSandbox,
    PodSandboxConfig, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use super::{Fake, Held, Inner, after, now};
use crate::doors::cri::{Error, ErrorKind, ImageInfo, Listing, Output, Runtime, State, Streams, Version};

#[tonic::async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<Version, Error> {
        self.enter("version", "")?;
        Ok(Version {
            name: "fake".into(),
            version: "1".into(),
        })
    }

    async fn status(&self) -> Result<State, Error> {
        self.enter("status", "")?;
        Ok(State::default())
    }

    async fn list(&self, uid: Option<&str>) -> Result<Listing, Error> {
        let late = self.enter("list", uid.unwrap_or(""))?;
        let inner = self.lock();
        let of = |labels: &std::collections::HashMap<String, String>| {
            uid.is_none_or(|uid| labels.get("io.kubernetes.pod.uid").is_some_and(|own| own == uid))
        };
        let sandboxes = inner
            .sandboxes
            .iter()
            .filter(|(_, (config, _))| of(&config.labels));
        let containers = inner
            .containers
            .iter()
            .filter(|(_, container)| of(&container.config.labels));
        let listing = Listing {
            sandboxes: sandboxes
                .map(|(id, (config, state))| PodSandbox {
                    id: id.clone(),
                    metadata: config.metadata.clone(),
                    state: *state as i32,
                    created_at: 1,
                    labels: config.labels.clone(),
                    annotations: config.annotations.clone(),
                    runtime_handler: String::new(),
                })
                .collect(),
            containers: containers
                .map(|(id, container)| Container {
                    id: id.clone(),
                    pod_sandbox_id: container.sandbox.clone(),
                    metadata: container.config.metadata.clone(),
                    image: container.config.image.clone(),
                    image_ref: "sha256:1".into(),
                    state: container.state as i32,
                    created_at: container.times[0],
                    labels: container.config.labels.clone(),
                    annotations: container.config.annotations.clone(),
                    image_id: String::new(),
                })
                .collect(),
        };
        after(late, listing)
    }

    async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let late = self.enter("sandbox_status", id)?;
        let inner = self.lock();
        let (config, state) = inner
            .sandboxes
            .get(id)
            .ok_or_else(|| Inner::missing("sandbox_status", id))?;
        let status = PodSandboxStatus {
            id: id.to_owned(),
            metadata: config.metadata.clone(),
            state: *state as i32,
            created_at: 1,
            network: Some(PodSandboxNetworkStatus {
                ip: "10.244.0.9".into(),
                additional_ips: vec![],
            }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..PodSandboxStatus::default()
        };
        after(late, status)
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        let late = self.enter("container_status", id)?;
        let inner = self.lock();
        let container = inner
            .containers
            .get(id)
            .ok_or_else(|| Inner::missing("container_status", id))?;
        let exited = container.state == ContainerState::ContainerExited;
        let reason = if container.code == 0 { "Completed" } else { "Error" };
        let status = ContainerStatus {
            id: id.to_owned(),
            metadata: container.config.metadata.clone(),
            state: container.state as i32,
            created_at: container.times[0],
            started_at: container.times[1],
            finished_at: container.times[2],
            exit_code: container.code,
            image: container.config.image.clone(),
            image_ref: "sha256:1".into(),
            reason: if exited { reason.into() } else { String::new() },
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            ..ContainerStatus::default()
        };
        after(late, status)
    }

    async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, Error> {
        let late = self.enter("run_sandbox", &config.hostname)?;
        let mut inner = self.lock();
        if inner
            .sandboxes
            .values()
            .any(|(other, _)| other.metadata == config.metadata)
        {
            let kind = ErrorKind::Refused;
            let message = "name is reserved".to_owned();
            return Err(Error {
                operation: "run_sandbox",
                object: config.hostname,
                kind,
                message,
            });
        }
        let id = inner.id("s");
        inner
            .sandboxes
            .insert(id.clone(), (config, PodSandboxState::SandboxReady));
        after(late, id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let late = self.enter("stop_sandbox", id)?;
        let mut inner = self.lock();
        if let Some((_, state)) = inner.sandboxes.get_mut(id) {
            *state = PodSandboxState::SandboxNotready;
        }
        for container in inner
            .containers
            .values_mut()
            .filter(|container| container.sandbox == id)
        {
            container.end(137);
        }
        after(late, ())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let late = self.enter("remove_sandbox", id)?;
        let mut inner = self.lock();
        inner.sandboxes.remove(id);
        inner.containers.retain(|_, container| container.sandbox != id);
        after(late, ())
    }

    async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        _: PodSandboxConfig,
    ) -> Result<String, Error> {
        let name = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default();
        let late = self.enter("create", &name)?;
        let mut inner = self.lock();
        if !inner.sandboxes.contains_key(sandbox) {
            return Err(Inner::missing("create", sandbox));
        }
        let reserved = inner
            .containers
            .values()
            .any(|other| other.sandbox == sandbox && other.config.metadata == config.metadata);
        if reserved {
            let message = "name is reserved".to_owned();
            return Err(Error {
                operation: "create",
                object: name,
                kind: ErrorKind::Refused,
                message,
            });
        }
        let id = inner.id("c");
        let container = Held {
            config,
            sandbox: sandbox.to_owned(),
            state: ContainerState::ContainerCreated,
            code: 0,
            times: [now(), 0, 0],
        };
        inner.containers.insert(id.clone(), container);
        after(late, id)
    }

    async fn start(&self, id: &str) -> Result<(), Error> {
        let late = self.enter("start", id)?;
        let mut inner = self.lock();
        let container = inner
            .containers
            .get_mut(id)
            .ok_or_else(|| Inner::missing("start", id))?;
        container.state = ContainerState::ContainerRunning;
        container.times[1] = now();
        after(late, ())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let late = self.enter("stop", &format!("{id} within {} s", grace.as_secs()))?;
        let mut inner = self.lock();
        let code = inner.stopped.unwrap_or(143);
        if let Some(container) = inner.containers.get_mut(id) {
            container.end(code);
        }
        after(late, ())
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        let late = self.enter("remove", id)?;
        self.lock().containers.remove(id);
        after(late, ())
    }

    async fn update(&self, id: &str, _: LinuxContainerResources) -> Result<(), Error> {
        let late = self.enter("update", id)?;
        after(late, ())
    }

    async fn exec(&self, id: &str, command: &[String], _: Duration) -> Result<Output, Error> {
        let late = self.enter("exec", id)?;
        let word = command.first().cloned().unwrap_or_default();
        let output = self.lock().commands.get(&word).cloned().unwrap_or_default();
        after(late, output)
    }

    async fn exec_url(&self, id: &str, _: &[String], _: Streams) -> Result<String, Error> {
        let late = self.enter("exec_url", id)?;
        let server = self.lock().streaming.clone();
        let server = if server.is_empty() { "127.0.0.1:1" } else { &server };
        after(late, format!("http://{server}/exec/{id}"))
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>, Error> {
        let late = self.enter("image", name)?;
        let inner = self.lock();
        let found = inner.images.iter().any(|image| image == name);
        after(
            late,
            found.then(|| ImageInfo {
                id: "sha256:1".into(),
                ..ImageInfo::default()
            }),
        )
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Error> {
        let late = self.enter("images", "")?;
        let inner = self.lock();
        let images = inner.images.iter().map(|name| ImageInfo {
            tags: vec![name.clone()],
            ..Default::default()
        });
        after(late, images.collect())
    }

    async fn pull(&self, name: &str) -> Result<String, Error> {
        self.enter("pull", name)?;
        let message = "there is no registry".to_owned();
        Err(Error {
            operation: "pull",
            object: name.to_owned(),
            kind: ErrorKind::Refused,
            message,
        })
    }
}
