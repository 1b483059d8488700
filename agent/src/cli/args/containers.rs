//! Commands about containers.

use clap::Args;

use super::Namespace;
use crate::cli::duration;

/// `keelson logs`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keelson logs web-7d4b9c-x2k4q
  keelson logs -f deployment/web -c nginx       # goes on when the container is restarted
  keelson logs -p web-7d4b9c-x2k4q              # of the container's life before this one
  keelson logs --tail 20 --since 1h --timestamps -l app=web")]
pub struct Logs {
    /// POD, or deployment/NAME.
    #[arg(required_unless_present = "selector")]
    pub target: Option<String>,
    /// The container, by its place on the line.
    pub container_name: Option<String>,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// The container [default: the pod's first].
    #[arg(short = 'c', long, conflicts_with = "container_name")]
    pub container: Option<String>,
    /// All containers of the pod.
    #[arg(long, conflicts_with_all = ["container", "container_name"])]
    pub all_containers: bool,
    /// Go on until the container writes no more.
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Of the container's life before this one.
    #[arg(short = 'p', long)]
    pub previous: bool,
    /// Only so many of the last lines; -1 shows all [default: -1, with a selector 10].
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Only what is younger, such as 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "since_time")]
    pub since: Option<std::time::Duration>,
    /// Only what is younger than this time, such as 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME")]
    pub since_time: Option<jiff::Timestamp>,
    /// The time before each line.
    #[arg(long)]
    pub timestamps: bool,
    /// Pod and container before each line.
    #[arg(long)]
    pub prefix: bool,
    /// Pods with these labels.
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "target")]
    pub selector: Option<String>,
}

/// `keelson exec`
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is the command's.

Examples:
  keelson exec -it web-7d4b9c-x2k4q -- sh
  keelson exec deployment/web -c nginx -- nginx -T
  tar c . | keelson exec -i web-7d4b9c-x2k4q -- tar x -C /tmp")]
pub struct Exec {
    /// POD, or deployment/NAME.
    pub target: String,
    /// Which namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// The container [default: the pod's first].
    #[arg(short = 'c', long)]
    pub container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal.
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Command and arguments, after --.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}
