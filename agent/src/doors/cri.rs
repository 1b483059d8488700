//! The container runtime, through CRI: the truth about sandboxes and containers.
//!
//! [`Runtime`] is what the agent needs of it; [`client::Client`] is the real one over the runtime's socket,
//! `fake::Fake` a perfect one in memory that fails on demand, for tests of the loops.

pub mod channel;
pub mod client;
#[cfg(test)]
pub mod fake;

use std::time::Duration;

use keelson_proto::cri::{
    Container, ContainerConfig, ContainerStatus, LinuxContainerResources, PodSandbox, PodSandboxConfig,
    PodSandboxStatus,
};

/// What went wrong between agent and runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {message}")]
pub struct Error {
    /// The call.
    pub operation: &'static str,
    /// What it was about: a pod's, container's or image's name or id.
    pub object: String,
    /// What to make of it.
    pub kind: ErrorKind,
    /// The runtime's words.
    pub message: String,
}

/// What to make of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The runtime cannot be reached: nothing is known of the outcome.
    Unavailable,
    /// It did not answer in time: nothing is known of the outcome.
    Timeout,
    /// What was named does not exist.
    NotFound,
    /// The runtime lacks this call.
    Unimplemented,
    /// Anything else: the runtime's words say.
    Refused,
}

impl Error {
    /// Whether the fault lies with the connection, not with what was asked.
    pub fn is_outage(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable)
    }
}

/// The runtime's name for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Such as `containerd`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// How the runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What is wrong with the runtime itself.
    pub runtime: Option<String>,
    /// What is wrong with its network: no configuration yet.
    pub network: Option<String>,
    /// The image it holds pods' namespaces with, where it says so.
    pub sandbox_image: Option<String>,
}

/// Everything in the runtime, or everything of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Sandboxes.
    pub sandboxes: Vec<PodSandbox>,
    /// Containers.
    pub containers: Vec<Container>,
}

/// What a command gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// What it wrote, both streams, the standard one first.
    pub text: String,
}

/// An image in the runtime's store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// Digest of its configuration.
    pub id: String,
    /// Names by digest.
    pub repo_digests: Vec<String>,
    /// User it runs as, where that is a number.
    pub uid: Option<i64>,
    /// User it runs as, where that is a name.
    pub username: String,
    /// Bytes.
    pub size: u64,
    /// Its names.
    pub tags: Vec<String>,
}

/// How a command is to be run by the runtime's streaming server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// A terminal.
    pub tty: bool,
    /// Standard input.
    pub stdin: bool,
}

/// The container runtime.
#[tonic::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Who it is.
    async fn version(&self) -> Result<Version, Error>;
    /// How it is.
    async fn status(&self) -> Result<State, Error>;

    /// Sandboxes and containers of one pod, or of all.
    async fn list(&self, uid: Option<&str>) -> Result<Listing, Error>;
    /// More of a sandbox: its addresses.
    async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error>;
    /// More of a container: times, exit code, reason.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error>;

    /// Make and start a sandbox; returns its id.
    async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, Error>;
    /// Stop a sandbox with all in it, and release its network. Again is fine.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Remove a sandbox with all in it. Missing is fine.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;

    /// Make a container; returns its id.
    async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, Error>;
    /// Start a container that was made.
    async fn start(&self, id: &str) -> Result<(), Error>;
    /// Signal a container, and kill it after the grace. Missing or stopped is fine.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error>;
    /// Remove a container. Missing is fine.
    async fn remove(&self, id: &str) -> Result<(), Error>;
    /// Change a running container's limits.
    async fn update(&self, id: &str, resources: LinuxContainerResources) -> Result<(), Error>;

    /// Run a command in a container and wait for its end; `limit` zero waits for ever.
    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Output, Error>;
    /// Where to connect to for a command with live streams.
    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String, Error>;

    /// An image by its name, where it is there.
    async fn image(&self, name: &str) -> Result<Option<ImageInfo>, Error>;
    /// All images.
    async fn images(&self) -> Result<Vec<ImageInfo>, Error>;
    /// Fetch an image from its registry; returns its id.
    async fn pull(&self, name: &str) -> Result<String, Error>;
}
