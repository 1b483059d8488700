//! Starting a container: describe it, make it, start it, and hand on its postStart hook.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container as PodContainer, Pod, PodSpec};
use keelson_core::pod::{
    Container, Observed, Pull,
    env::{NodeFacts, Sources},
    spec::{self, ContainerSpec},
};
use keelson_proto::cri::Mount;

use super::{
    apply::find,
    dispatcher::Shared,
    hooks, messages, observe,
    roster::Poke,
    sandbox::{self, blocking},
    tell,
};
use crate::{
    doors::{
        cri::{Error, ErrorKind},
        volumes::{Volumes, hosts},
    },
    world::Objects,
};

/// Where pods look for names of hosts.
const HOSTS: &str = "/etc/hosts";

/// What a start needs.
pub struct Startup<'a> {
    /// Of all workers.
    pub shared: Shared,
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// The objects it may refer to.
    pub objects: &'a Objects,
    /// What is known of it.
    pub observed: &'a Observed,
    /// Whom the container's events wake.
    pub poke: Poke,
}

/// What came of it.
pub struct Started {
    /// The container's name.
    pub name: String,
    /// Its restart count.
    pub attempt: u32,
    /// How it went.
    pub outcome: Outcome,
}

/// A postStart hook under way.
pub type Hook = BoxFuture<'static, Result<(), String>>;

/// How a start went.
pub enum Outcome {
    /// It runs (or ended already), and its hook is to be run.
    Running(Box<Container>, Option<Hook>),
    /// It cannot be described: something it refers to is missing.
    Unconfigured(String),
    /// The runtime refused.
    Refused {
        /// Kubernetes' word for where.
        reason: &'static str,
        /// What it said.
        error: Error,
    },
}

/// A start that did not come to its end.
enum Failure {
    Unconfigured(String),
    Refused(&'static str, Error),
}

const CREATE: &str = "CreateContainerError";
const RUN: &str = "RunContainerError";

impl Startup<'_> {
    /// Make and start a container.
    pub async fn start(self, name: &str, attempt: u32) -> Started {
        let outcome = self.make(name, attempt).await.unwrap_or_else(failed);
        Started {
            name: name.to_owned(),
            attempt,
            outcome,
        }
    }

    /// Start one that was made before.
    pub async fn start_created(self, name: &str, id: &str) -> Started {
        let attempt = self
            .observed
            .containers
            .iter()
            .find(|container| container.id == id);
        let attempt = attempt.map_or(0, |container| container.attempt);
        let outcome = match find(self.pod, name) {
            Some(container) => self.begin(container, id.to_owned()).await.unwrap_or_else(failed),
            None => Outcome::Unconfigured(format!("the pod has no container {name:?}")),
        };
        Started {
            name: name.to_owned(),
            attempt,
            outcome,
        }
    }

    async fn make(&self, name: &str, attempt: u32) -> Result<Outcome, Failure> {
        let absent = || Failure::Unconfigured(format!("the pod has no container {name:?}"));
        let container = find(self.pod, name).ok_or_else(absent)?;
        let empty = PodSpec::default();
        let pod_spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let node = self.node();
        let sandbox = self
            .observed
            .sandbox()
            .ok_or_else(|| refused(CREATE, name, "the pod has no sandbox"))?;
        let ips = spec::pod_ips(pod_spec, &sandbox.ips, &node);
        let sources = Sources {
            pod: self.pod,
            pod_ips: &ips,
            node: &node,
            config_maps: &self.objects.config_maps,
            secrets: &self.objects.secrets,
            services: &self.objects.services,
        };
        let mut described = spec::container(container, attempt, &sources).map_err(Failure::Unconfigured)?;
        self.settle_user(&mut described).await?;
        let mounts = self.mounts(pod_spec, container, &described, ips).await?;
        let profiles = self.shared.ctx.config.root.join("seccomp");
        let own = spec::sandbox(self.pod, sandbox.attempt);
        let config = messages::container(&described, &own, mounts, &profiles);
        let sandbox_config = sandbox::config(&self.shared, self.pod, sandbox.attempt);
        let image = &described.image;
        if self
            .observed
            .images
            .get(image)
            .is_none_or(|state| state.pull == Pull::Idle)
        {
            self.tell(
                name,
                "Pulled",
                &format!("Container image \"{image}\" already present on machine"),
            );
        }
        let runtime = &self.shared.doors.runtime;
        let id = runtime
            .create(&sandbox.id, config, sandbox_config)
            .await
            .map_err(|error| Failure::Refused(CREATE, error))?;
        self.tell(name, "Created", &format!("Created container {name}"));
        self.begin(container, id).await
    }

    async fn begin(&self, container: &PodContainer, id: String) -> Result<Outcome, Failure> {
        let runtime = &self.shared.doors.runtime;
        // Before it starts, or its end might be nobody's.
        self.shared.roster.add(&id, &self.poke);
        runtime
            .start(&id)
            .await
            .map_err(|error| Failure::Refused(RUN, error))?;
        self.tell(
            &container.name,
            "Started",
            &format!("Started container {}", container.name),
        );
        let status = runtime
            .container_status(&id)
            .await
            .map_err(|error| Failure::Refused(RUN, error))?;
        let sandbox = self
            .observed
            .sandbox()
            .map(|sandbox| sandbox.id.clone())
            .unwrap_or_default();
        let image = container.image.clone().unwrap_or_default();
        let started = observe::describe(&sandbox, &image, &status);
        Ok(Outcome::Running(Box::new(started), self.hook(container, &id)))
    }

    fn hook(&self, container: &PodContainer, id: &str) -> Option<Hook> {
        let handler = container.lifecycle.as_ref()?.post_start.clone()?;
        let host = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or(false);
        let own = self.observed.sandbox().and_then(|sandbox| sandbox.ips.first());
        let address = if host { self.observed.host_ips.first() } else { own };
        let run = hooks::Run {
            runtime: self.shared.doors.runtime.clone(),
            prober: self.shared.doors.prober.clone(),
            container: container.clone(),
            id: id.to_owned(),
            address: address.map_or_else(|| "127.0.0.1".to_owned(), ToString::to_string),
        };
        Some(Box::pin(async move { run.run(&handler, None).await }))
    }

    /// What a pod may learn of its node.
    fn node(&self) -> NodeFacts {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        NodeFacts {
            name: self.shared.ctx.config.node_name.clone(),
            ips: self.observed.host_ips.clone(),
            cpu_milli: cores as u64 * 1000,
            memory: nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total()),
        }
    }

    /// Where it matters who the image's own user is: `runAsNonRoot` may forbid it, and a group needs one.
    async fn settle_user(&self, described: &mut ContainerSpec) -> Result<(), Failure> {
        if !described.security.needs_image() {
            return Ok(());
        }
        let found = self.shared.doors.runtime.image(&described.image).await;
        let image = found
            .map_err(|error| Failure::Refused(CREATE, error))?
            .unwrap_or_default();
        if let Some(problem) = spec::non_root_problem(&described.security, image.uid, &image.username) {
            return Err(Failure::Unconfigured(problem));
        }
        described.security.take_image_user(image.uid, &image.username);
        Ok(())
    }

    /// Everything that is mounted into the container, made ready.
    async fn mounts(
        &self,
        pod_spec: &PodSpec,
        container: &PodContainer,
        described: &ContainerSpec,
        ips: Vec<IpAddr>,
    ) -> Result<Vec<Mount>, Failure> {
        let hosts =
            (!described.mounts.iter().any(|mount| mount.path == HOSTS)).then(|| self.hosts(pod_spec, &ips));
        let (volumes, pod, described) = (
            self.shared.doors.volumes.clone(),
            self.pod.clone(),
            described.clone(),
        );
        let logs = spec::sandbox(self.pod, 0);
        let logs = volumes.log_directory(&logs.namespace, &logs.name, &logs.uid);
        let name = container.name.clone();
        let made = blocking(move || {
            volumes
                .make_log_folder(&logs, &name)
                .map_err(|error| error.to_string())?;
            mount_all(&volumes, &pod, &described, hosts.as_deref())
        });
        made.await
            .map_err(|message| refused(CREATE, &container.name, &message))
    }

    fn hosts(&self, pod_spec: &PodSpec, ips: &[IpAddr]) -> String {
        let empty = Vec::new();
        let aliases: Vec<_> = pod_spec
            .host_aliases
            .iter()
            .flatten()
            .map(|alias| {
                (
                    alias.ip.as_str(),
                    alias.hostnames.as_ref().unwrap_or(&empty).as_slice(),
                )
            })
            .collect();
        if pod_spec.host_network.unwrap_or(false) {
            return hosts::of_node(&std::fs::read_to_string(HOSTS).unwrap_or_default(), &aliases);
        }
        let key = sandbox::key(self.pod);
        let domain = &self.shared.ctx.config.cluster_domain;
        let subdomain = pod_spec
            .subdomain
            .as_deref()
            .filter(|subdomain| !subdomain.is_empty());
        let domain = subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{domain}", key.namespace));
        hosts::of_pod(
            ips,
            &spec::hostname(pod_spec, &key.name),
            domain.as_deref(),
            &aliases,
        )
    }

    fn tell(&self, container: &str, reason: &str, message: &str) {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        tell::normal(
            &self.shared.ctx.world,
            &sandbox::key(self.pod),
            uid,
            Some(container),
            reason,
            message,
        );
    }
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Unconfigured(message) => Outcome::Unconfigured(message),
        Failure::Refused(reason, error) => Outcome::Refused { reason, error },
    }
}

fn refused(reason: &'static str, container: &str, message: &str) -> Failure {
    let error = Error {
        operation: "prepare container",
        object: container.to_owned(),
        kind: ErrorKind::Refused,
        message: message.to_owned(),
    };
    Failure::Refused(reason, error)
}

fn mount_all(
    volumes: &Volumes,
    pod: &Pod,
    described: &ContainerSpec,
    hosts: Option<&str>,
) -> Result<Vec<Mount>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sources = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let mut mounts = Vec::new();
    for (index, mount) in described.mounts.iter().enumerate() {
        let source = sources
            .into_iter()
            .flatten()
            .find(|volume| volume.name == mount.volume);
        let path: Option<PathBuf> = source.and_then(|source| volumes.path(uid, source));
        let path = path.ok_or_else(|| format!("the pod has no volume {:?}", mount.volume))?;
        let host = volumes
            .mount_path(
                uid,
                &described.name,
                index,
                (&mount.volume, &path),
                Some(&mount.sub_path),
            )
            .map_err(|error| error.to_string())?;
        mounts.push(messages::mount(
            &mount.path,
            &host,
            mount.read_only,
            mount.propagation.as_deref(),
        ));
    }
    let log = volumes
        .make_termination_log(uid, &described.name, described.attempt)
        .map_err(|error| error.to_string())?;
    mounts.push(messages::mount(
        &described.termination_message_path,
        &log,
        false,
        None,
    ));
    if let Some(text) = hosts {
        let path = volumes
            .write_hosts(uid, text)
            .map_err(|error| error.to_string())?;
        mounts.push(messages::mount(HOSTS, &path, false, None));
    }
    Ok(mounts)
}
