//! The real runtime, over its unix socket.

mod call;
pub mod image;

use std::{collections::HashMap, path::Path, time::Duration};

use keelson_proto::cri::{
    ContainerConfig, ContainerFilter, ContainerStatus, ContainerStatusRequest, CreateContainerRequest,
    ExecRequest, ExecSyncRequest, ImageStatusRequest, LinuxContainerResources, ListContainersRequest,
    ListImagesRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus,
    PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest, VersionRequest, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::Channel;

use self::call::{call, gone};
use super::{Error, ImageInfo, Listing, Output, Runtime, State, Streams, Version, channel};

/// Label by which everything of a pod is found.
const UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Calls that only look.
const LOOK: Duration = Duration::from_secs(10);
/// Calls that make, start, stop or remove.
const WORK: Duration = Duration::from_secs(120);
/// A sandbox includes the network's plugins, and perhaps fetching the sandbox image.
const SANDBOX: Duration = Duration::from_secs(240);
/// A pull takes what it takes; this only ends one that hangs.
const PULL: Duration = Duration::from_secs(3600);
/// Runtimes send up to 16 MiB.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The runtime behind a socket. Connects with the first call and again after every loss. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Client {
    /// On a socket; nothing is sent before the first call.
    pub fn new(socket: &Path) -> Self {
        let channel = channel::lazy(socket);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
        }
    }
}

#[tonic::async_trait]
impl Runtime for Client {
    async fn version(&self) -> Result<Version, Error> {
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        let answer = call(
            "ask the version of",
            "runtime",
            LOOK,
            self.runtime.clone().version(request),
        )
        .await?;
        Ok(Version {
            name: answer.runtime_name,
            version: answer.runtime_version,
        })
    }

    async fn status(&self) -> Result<State, Error> {
        let request = StatusRequest { verbose: true };
        let answer = call(
            "ask the status of",
            "runtime",
            LOOK,
            self.runtime.clone().status(request),
        )
        .await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let problem = |name: &str| {
            conditions
                .iter()
                .find(|condition| condition.r#type == name && !condition.status)
                .map(|condition| {
                    format!(
                        "{name}=false reason:{} message:{}",
                        condition.reason, condition.message
                    )
                })
        };
        Ok(State {
            runtime: problem("RuntimeReady"),
            network: problem("NetworkReady"),
            sandbox_image: answer
                .info
                .get("config")
                .and_then(|config| image::configured(config)),
        })
    }

    async fn list(&self, uid: Option<&str>) -> Result<Listing, Error> {
        let label_selector: HashMap<_, _> = uid
            .map(|uid| (UID_LABEL.to_owned(), uid.to_owned()))
            .into_iter()
            .collect();
        let sandboxes = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter {
                label_selector: label_selector.clone(),
                ..Default::default()
            }),
        };
        let containers = ListContainersRequest {
            filter: Some(ContainerFilter {
                label_selector,
                ..Default::default()
            }),
        };
        let object = uid.unwrap_or("all pods");
        let (mut first, mut second) = (self.runtime.clone(), self.runtime.clone());
        // Containers first: one whose sandbox is not in the list was made in between and comes with the next list.
        let (containers, sandboxes) = tokio::join!(
            call(
                "list containers of",
                object,
                LOOK,
                first.list_containers(containers)
            ),
            call(
                "list sandboxes of",
                object,
                LOOK,
                second.list_pod_sandbox(sandboxes)
            ),
        );
        Ok(Listing {
            sandboxes: sandboxes?.items,
            containers: containers?.containers,
        })
    }

    async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = call(
            "look at sandbox",
            id,
            LOOK,
            self.runtime.clone().pod_sandbox_status(request),
        )
        .await?;
        Ok(answer.status.unwrap_or_default())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = call(
            "look at container",
            id,
            LOOK,
            self.runtime.clone().container_status(request),
        )
        .await?;
        Ok(answer.status.unwrap_or_default())
    }

    async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, Error> {
        let object = config
            .metadata
            .as_ref()
            .map(|metadata| format!("{}/{}", metadata.namespace, metadata.name))
            .unwrap_or_default();
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let answer = call(
            "run the sandbox of",
            &object,
            SANDBOX,
            self.runtime.clone().run_pod_sandbox(request),
        )
        .await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let answer = call(
            "stop sandbox",
            id,
            WORK,
            self.runtime.clone().stop_pod_sandbox(request),
        )
        .await;
        gone(answer.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let answer = call(
            "remove sandbox",
            id,
            WORK,
            self.runtime.clone().remove_pod_sandbox(request),
        )
        .await;
        gone(answer.map(drop))
    }

    async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, Error> {
        let object = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default();
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer = call(
            "create container",
            &object,
            WORK,
            self.runtime.clone().create_container(request),
        )
        .await?;
        Ok(answer.container_id)
    }

    async fn start(&self, id: &str) -> Result<(), Error> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        call(
            "start container",
            id,
            WORK,
            self.runtime.clone().start_container(request),
        )
        .await
        .map(drop)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        let answer = call(
            "stop container",
            id,
            grace + WORK,
            self.runtime.clone().stop_container(request),
        )
        .await;
        gone(answer.map(drop))
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let answer = call(
            "remove container",
            id,
            WORK,
            self.runtime.clone().remove_container(request),
        )
        .await;
        gone(answer.map(drop))
    }

    async fn update(&self, id: &str, resources: LinuxContainerResources) -> Result<(), Error> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            annotations: HashMap::new(),
        };
        let mut runtime = self.runtime.clone();
        call(
            "update container",
            id,
            WORK,
            runtime.update_container_resources(request),
        )
        .await
        .map(drop)
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Output, Error> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX),
        };
        // The runtime ends the command at its limit; the call itself gets a little longer.
        let wait = if limit.is_zero() { PULL } else { limit + WORK };
        let answer = call(
            "run a command in container",
            id,
            wait,
            self.runtime.clone().exec_sync(request),
        )
        .await?;
        let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&answer.stderr));
        Ok(Output {
            code: answer.exit_code,
            text,
        })
    }

    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String, Error> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: true,
            // A terminal has one stream.
            stderr: !streams.tty,
        };
        Ok(call(
            "open a command in container",
            id,
            LOOK,
            self.runtime.clone().exec(request),
        )
        .await?
        .url)
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>, Error> {
        let request = ImageStatusRequest {
            image: Some(image::spec(name)),
            verbose: false,
        };
        let answer = call(
            "look for image",
            name,
            LOOK,
            self.images.clone().image_status(request),
        )
        .await?;
        Ok(answer.image.map(image::info))
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Error> {
        let request = ListImagesRequest { filter: None };
        let answer = call(
            "list images of",
            "runtime",
            LOOK,
            self.images.clone().list_images(request),
        )
        .await?;
        Ok(answer.images.into_iter().map(image::info).collect())
    }

    async fn pull(&self, name: &str) -> Result<String, Error> {
        let request = PullImageRequest {
            image: Some(image::spec(name)),
            ..PullImageRequest::default()
        };
        Ok(
            call("pull image", name, PULL, self.images.clone().pull_image(request))
                .await?
                .image_ref,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_an_outage_with_its_address() {
        let error = Client::new(Path::new("/nonexistent/socket"))
            .version()
            .await
            .expect_err("nobody listens");
        assert!(error.is_outage(), "{error:?}");
        assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
    }
}
