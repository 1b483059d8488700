//! A bare client of the container runtime: what somebody does by hand, and what the benchmarks measure the agent against.

use std::{collections::HashMap, fs::File, future::Future, os::fd::AsFd};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use keelson_proto::cri::{
    Container, ContainerConfig, ContainerMetadata, ContainerStatusRequest, CreateContainerRequest, ImageSpec,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListContainersRequest, ListPodSandboxRequest,
    NamespaceMode, NamespaceOption, PodSandbox, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use nix::sched::{CloneFlags, setns};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::node::{Node, containerd::SOCKET};

/// A connection to a node's runtime.
#[derive(Clone)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    cgroup: String,
    host_network: bool,
}

/// Run something with a client, on a thread whose file system is the node's (that is where the socket is).
pub fn block_on<T, F>(node: &Node, action: impl FnOnce(Client) -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let pid = node.namespace().pid();
    let cgroup = node.cgroup().path().to_owned();
    let thread = std::thread::spawn(move || -> Result<T> {
        let path = format!("/proc/{pid}/ns/mnt");
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        // A thread may enter a mount namespace only once it shares its root and working directory with nobody.
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNS).with_context(|| format!("entering {path}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = Client::connect(cgroup).await?;
            action(client).await
        })
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that talks to the runtime panicked"))?
}

impl Client {
    async fn connect(cgroup: String) -> Result<Self> {
        let connector = service_fn(|_: Uri| async { UnixStream::connect(SOCKET).await.map(TokioIo::new) });
        let channel = Endpoint::from_static("http://runtime")
            .connect_with_connector(connector)
            .await;
        let channel = channel.with_context(|| format!("connecting to {SOCKET}"))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel),
            cgroup,
            host_network: false,
        })
    }

    /// Sandboxes use the node's network from now on: no plugin is asked.
    pub fn on_host_network(&mut self) {
        self.host_network = true;
    }

    /// A sandbox as kubelet would make it.
    pub fn sandbox_config(&self, name: &str, uid: &str) -> PodSandboxConfig {
        let labels = [
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", uid),
        ];
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            // A sandbox on the node's network has the node's name.
            hostname: if self.host_network {
                String::new()
            } else {
                name.to_owned()
            },
            log_directory: format!("/var/log/pods/default_{name}_{uid}"),
            labels: labels
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<HashMap<_, _>>(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/by-hand", self.cgroup),
                security_context: self.host_network.then(|| LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: NamespaceMode::Node.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// Run a sandbox; returns its id.
    pub async fn run_sandbox(&mut self, name: &str, uid: &str) -> Result<String> {
        let config = Some(self.sandbox_config(name, uid));
        let request = RunPodSandboxRequest {
            config,
            ..RunPodSandboxRequest::default()
        };
        Ok(self
            .runtime
            .run_pod_sandbox(request)
            .await
            .context("RunPodSandbox")?
            .into_inner()
            .pod_sandbox_id)
    }

    /// Create and start a container in a sandbox.
    pub async fn run_container(
        &mut self,
        sandbox: &str,
        name: &str,
        uid: &str,
        image: &str,
        command: &[&str],
    ) -> Result<String> {
        let sandbox_config = self.sandbox_config(name, uid);
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: "main.log".to_owned(),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let id = self
            .runtime
            .create_container(request)
            .await
            .context("CreateContainer")?
            .into_inner()
            .container_id;
        let start = StartContainerRequest {
            container_id: id.clone(),
        };
        self.runtime
            .start_container(start)
            .await
            .context("StartContainer")?;
        Ok(id)
    }

    /// Stop a sandbox with all in it.
    pub async fn stop_sandbox(&mut self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .stop_pod_sandbox(request)
            .await
            .context("StopPodSandbox")
            .map(drop)
    }

    /// Remove a sandbox with all in it.
    pub async fn remove_sandbox(&mut self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .remove_pod_sandbox(request)
            .await
            .context("RemovePodSandbox")
            .map(drop)
    }

    /// All sandboxes.
    pub async fn sandboxes(&mut self) -> Result<Vec<PodSandbox>> {
        let answer = self.runtime.list_pod_sandbox(ListPodSandboxRequest::default());
        Ok(answer.await.context("ListPodSandbox")?.into_inner().items)
    }

    /// All containers.
    pub async fn containers(&mut self) -> Result<Vec<Container>> {
        let answer = self.runtime.list_containers(ListContainersRequest::default());
        Ok(answer.await.context("ListContainers")?.into_inner().containers)
    }

    /// When a container started, in nanoseconds since the epoch; 0 before.
    pub async fn started_at(&mut self, id: &str) -> Result<i64> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.container_status(request);
        let status = answer.await.context("ContainerStatus")?.into_inner().status;
        Ok(status
            .with_context(|| format!("container {id} has no status"))?
            .started_at)
    }
}
