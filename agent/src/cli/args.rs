//! What can be said on the command line.

mod agent;
mod containers;
mod explain;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{
    agent::{Check, LogFormat, Node, Proxy},
    containers::{Exec, Logs},
    explain::{Explain, Form},
};

const EXAMPLES: &str = "\
Examples:
  keelson node --config /etc/keelson/config.yaml    Run the agent
  keelson proxy --config /etc/keelson/config.yaml   Carry Services only, in place of kube-proxy
  keelson check                                     See what this machine can do and what helps
  keelson apply -f web.yaml                         Run what the file says
  keelson get pods -o wide -w                       See pods, and follow their changes
  keelson logs -f deployment/web                    Follow what a pod writes
  keelson exec -it web-7d4b9c-x2k4q -- sh           A shell in a container
  keelson explain 10.96.0.10:53 --protocol udp      Where a packet would go, and why
  keelson delete -f web.yaml                        End it

The commands talk to the agent on this node through its socket; as with kubectl, objects are kept as
Kubernetes' YAML. The folder of manifests is the only truth: `apply` writes to its subfolder `applied`.";

/// Runs pods and carries their traffic on this node, with or without a control plane.
#[derive(Debug, Parser)]
#[command(name = "keelson", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    /// The agent's socket.
    #[arg(
        long,
        global = true,
        env = "KEELSON_SOCKET",
        default_value = "/run/keelson/keelson.sock",
        value_name = "PATH"
    )]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground; it ends with SIGTERM, pods and traffic go on.
    Node(Node),
    /// Run the service proxy alone, beside a kubelet and a pod network, in place of kube-proxy.
    Proxy(Box<Proxy>),
    /// Write objects into the folder of manifests, so that they run from now on.
    Apply(Apply),
    /// Take objects out of the folder of manifests, end pods.
    Delete(Delete),
    /// Show objects.
    Get(Get),
    /// Show all about objects, with their events.
    Describe(Describe),
    /// Show what a container wrote.
    Logs(Logs),
    /// Run a command in a container.
    Exec(Exec),
    /// Say what would become of a packet, and why. Sends none, and changes nothing.
    Explain(Explain),
    /// Wait until objects are as they shall be.
    Wait(Wait),
    /// Follow the rollout of a Deployment.
    #[command(subcommand)]
    Rollout(Rollout),
    /// See what this kernel and container runtime can do, and what helps where something is missing.
    Check(Check),
    /// Show the versions of the command line and the agent.
    Version,
}

/// Which namespace.
#[derive(Clone, Debug, Default, Args)]
pub struct Namespace {
    /// The namespace to work in [default: default].
    #[arg(short = 'n', long = "namespace", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Files of objects.
#[derive(Clone, Debug, Default, Args)]
pub struct Files {
    /// A file of objects, a folder of files, or - for standard input.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Take the files of subfolders too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `keelson apply`
#[derive(Debug, Args)]
#[command(after_help = "\
All documents are checked first; if one cannot be used, nothing is written.

Examples:
  keelson apply -f web.yaml
  keelson apply -f manifests/ --dry-run
  cat web.yaml | keelson apply -f -")]
pub struct Apply {
    /// Where the objects are.
    #[command(flatten)]
    pub files: Files,
    /// For objects that name none.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Check everything, write nothing.
    #[arg(long, num_args = 0..=1, default_missing_value = "server", value_parser = ["server", "client", "none"], require_equals = true)]
    pub dry_run: Option<String>,
    /// name: only the objects' names.
    #[arg(short = 'o', long, value_parser = ["name"])]
    pub output: Option<String>,
}

/// `keelson delete`
#[derive(Debug, Args)]
#[command(after_help = "\
A pod that a Deployment made comes again as another pod. Objects of files that `apply` did not write are refused
with the file's name: remove them there.

Examples:
  keelson delete -f web.yaml
  keelson delete deployment web
  keelson delete pod/web-7d4b9c-x2k4q --now
  keelson delete pods -l app=web")]
pub struct Delete {
    /// Where the objects are.
    #[command(flatten)]
    pub files: Files,
    /// KIND NAME…, or KIND/NAME…
    pub objects: Vec<String>,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Objects with these labels.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// All objects of the kind in the namespace.
    #[arg(long)]
    pub all: bool,
    /// Seconds that pods get to stop, instead of what they ask for themselves.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub grace_period: Option<i64>,
    /// Stop pods after one second.
    #[arg(long, conflicts_with = "grace_period")]
    pub now: bool,
    /// Kill pods at once, without grace.
    #[arg(long, conflicts_with_all = ["grace_period", "now"])]
    pub force: bool,
    /// Wait until the objects are gone.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, require_equals = true)]
    pub wait: bool,
    /// Whether to wait for the pods of Deployments, too.
    #[arg(long, value_parser = ["background", "foreground"], default_value = "background")]
    pub cascade: String,
    /// Give up waiting after this long, such as 30s; 0s waits for ever.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = super::duration::parse)]
    pub timeout: std::time::Duration,
    /// An object that is not there is no error.
    #[arg(long)]
    pub ignore_not_found: bool,
    /// name: only the objects' names.
    #[arg(short = 'o', long, value_parser = ["name"])]
    pub output: Option<String>,
}

/// `keelson get`
#[derive(Debug, Args)]
#[command(after_help = "\
Kinds: pods (po), deployments (deploy), services (svc), endpoints (ep), endpointslices, configmaps (cm),
secrets, events (ev), nodes (no), namespaces (ns), manifests, all.

Examples:
  keelson get pods -A -o wide
  keelson get deploy,svc,ep
  keelson get pod web-7d4b9c-x2k4q -o yaml
  keelson get pods -l app=web,tier!=back -w
  keelson get manifests              # which file runs what, and what is wrong with it")]
pub struct Get {
    /// KIND[,KIND…] [NAME…], or KIND/NAME…
    #[arg(required = true)]
    pub objects: Vec<String>,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// How to show them.
    #[arg(short = 'o', long, value_enum)]
    pub output: Option<Output>,
    /// Go on showing changes.
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// Show only changes.
    #[arg(long)]
    pub watch_only: bool,
    /// Leave out the line of column names.
    #[arg(long)]
    pub no_headers: bool,
    /// Show the labels.
    #[arg(long)]
    pub show_labels: bool,
    /// An object that is not there is no error.
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Only their names.
    Name,
}

/// `keelson describe`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keelson describe pod web-7d4b9c-x2k4q
  keelson describe deployment/web
  keelson describe pods -l app=web")]
pub struct Describe {
    /// KIND [NAME…], or KIND/NAME…; of a name, its beginning is enough.
    #[arg(required = true)]
    pub objects: Vec<String>,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

/// `keelson wait`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keelson wait --for=condition=Ready pod/web-7d4b9c-x2k4q
  keelson wait --for=condition=Available deployment --all --timeout=60s
  keelson wait --for=delete pod -l app=web
  keelson wait --for=jsonpath='{.status.phase}'=Succeeded pod/job")]
pub struct Wait {
    /// KIND NAME…, or KIND/NAME…
    #[arg(required = true)]
    pub objects: Vec<String>,
    /// delete, create, condition=NAME[=VALUE] or jsonpath='{.path}'=VALUE.
    #[arg(long = "for", value_name = "WHAT")]
    pub what: String,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Objects with these labels.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// All objects of the kind in the namespace.
    #[arg(long)]
    pub all: bool,
    /// Give up after this long; 0s looks once.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = super::duration::parse)]
    pub timeout: std::time::Duration,
}

/// `keelson rollout`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Wait until a Deployment is rolled out, and say how far it is.
    Status(RolloutStatus),
}

/// `keelson rollout status`
#[derive(Debug, Args)]
pub struct RolloutStatus {
    /// deployment/NAME, or deployment NAME.
    #[arg(required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Wait for the end of the rollout.
    #[arg(short = 'w', long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, require_equals = true)]
    pub watch: bool,
    /// Give up after this long; 0s waits for ever.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = super::duration::parse)]
    pub timeout: std::time::Duration,
}
