//! `keelson explain`

use clap::{Args, ValueEnum};

/// `keelson explain`
#[derive(Debug, Args)]
#[command(after_help = "\
The programs that carry this node's traffic are run on a packet that nobody sent, over the live tables, and tell what they would do.
Where an endpoint is chosen at random, every candidate is shown.

Examples:
  keelson explain 10.96.0.10:53 --protocol udp                      # a process of this node asks
  keelson explain 10.96.0.10:53 --protocol udp --from pod default/web-7d4b9c-x2k4q
  keelson explain 10.244.0.5:40000 10.96.0.10:53                    # the pod with that address asks
  keelson explain 198.51.100.7 192.0.2.1:30080 --from interface eth0
  keelson explain 127.0.0.1:30080 -o yaml")]
pub struct Explain {
    /// `[SOURCE[:PORT]] DESTINATION:PORT`
    #[arg(required = true, num_args = 1..=2, value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Protocol of the packet.
    #[arg(short = 'p', long, value_parser = ["tcp", "udp", "sctp"], default_value = "tcp", ignore_case = true)]
    pub protocol: String,
    /// Where it comes from: `pod NAMESPACE/NAME`, `host`, or `interface NAME` [default: as its source says].
    #[arg(long, num_args = 1..=2, value_names = ["KIND", "NAME"])]
    pub from: Vec<String>,
    /// How to show it.
    #[arg(short = 'o', long, value_enum)]
    pub output: Option<Form>,
}

/// How an explanation is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// With every candidate's node.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}
