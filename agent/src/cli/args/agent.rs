//! Commands that are an agent, or look at what one needs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::config::{Flags, Part};

/// `keelson node`
#[derive(Debug, Args)]
pub struct Node {
    /// KeelsonConfiguration, alone or beside a KubeletConfiguration. Without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the log is written to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// `keelson proxy`
#[derive(Debug, Args)]
#[command(after_help = "\
Services and EndpointSlices come from the folder of manifests; so do labels and taints of this node, from a Node of its name.
Flags win over the file. A KubeProxyConfiguration in the file keeps its meaning; what this version cannot follow is refused by
name, what has no meaning here is noted in the log.

Examples:
  keelson proxy --config /var/lib/kube-proxy/config.conf
  keelson proxy --cluster-cidr 10.244.0.0/16 --nodeport-addresses primary
  keelson proxy --cleanup                            # take everything away again")]
pub struct Proxy {
    /// KubeProxyConfiguration or KeelsonConfiguration, or both as documents of one file. Without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the log is written to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Remove programs, maps, devices and routes, set the kernel's settings back, and end.
    #[arg(long)]
    pub cleanup: bool,
    /// Name of this node, instead of the host's.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's own address; 0.0.0.0 and :: stand for that of the default route.
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<String>,
    /// Where /healthz, /livez and /proxyMode answer; empty = nowhere [default: 0.0.0.0:10256].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics answers; empty = nowhere [default: 127.0.0.1:10249].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Networks of the cluster's pods: what comes from elsewhere and asks a Service address is masqueraded.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<String>,
    /// How pods are told from others: ClusterCIDR, NodeCIDR, InterfaceNamePrefix, BridgeInterface.
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// Beginning of the names of pods' devices, for --detect-local-mode=InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Bridge of pods, for --detect-local-mode=BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// Addresses that serve NodePorts: networks, or "primary".
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Masquerade everything that asks a Service.
    #[arg(long)]
    pub masquerade_all: bool,
    /// iptables, ipvs and nftables are understood, and noted: Services are programmed in eBPF.
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Score for the kernel's choice of whom to kill when memory runs out.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// Where the BPF file system is, or shall be, mounted [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    pub bpf: Option<PathBuf>,
    /// Run-time state: socket and locks [default: /run/keelson].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Folder of Services and EndpointSlices [default: /etc/keelson/manifests].
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
}

impl Proxy {
    /// What the flags say of the configuration.
    pub fn flags(&self) -> Flags {
        let mut kube_proxy = Map::new();
        let mut say = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                kube_proxy.insert(name.to_owned(), value);
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(|text| json!(text));
        say("hostnameOverride", text(&self.hostname_override));
        say("bindAddress", text(&self.bind_address));
        say("healthzBindAddress", text(&self.healthz_bind_address));
        say("metricsBindAddress", text(&self.metrics_bind_address));
        say("clusterCIDR", text(&self.cluster_cidr));
        say("detectLocalMode", text(&self.detect_local_mode));
        say(
            "detectLocal",
            Some(json!({
                "interfaceNamePrefix": self.pod_interface_name_prefix,
                "bridgeInterface": self.pod_bridge_interface,
            })),
        );
        say("mode", text(&self.proxy_mode));
        say("nodePortAddresses", Some(json!(self.nodeport_addresses)));
        say("oomScoreAdj", self.oom_score_adj.map(|score| json!(score)));
        let mut ours = Map::new();
        if self.masquerade_all {
            ours.insert("masqueradeAll".to_owned(), json!(true));
        }
        // Empty = off, which no field of kube-proxy's file can say.
        for (field, flag) in [
            ("healthzAddress", &self.healthz_bind_address),
            ("metricsAddress", &self.metrics_bind_address),
        ] {
            if flag.as_deref() == Some("") {
                ours.insert(field.to_owned(), json!(""));
            }
        }
        for (field, flag) in [
            ("bpf", &self.bpf),
            ("run", &self.run),
            ("manifests", &self.manifests),
        ] {
            if let Some(path) = flag {
                ours.insert(field.to_owned(), json!(path));
            }
        }
        Flags {
            kube_proxy,
            ours,
            defaults: Map::from_iter([("podNetwork".to_owned(), json!("other"))]),
            part: Part::Proxy,
        }
    }
}

/// How the agent's log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `keelson check`
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at the machine itself, so it works with no agent running; where one runs, what it sees is shown as well.
The exit code is 1 if something essential is missing.")]
pub struct Check {
    /// The agent's configuration: where to look.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What `keelson proxy` needs, instead of what a whole node needs.
    #[arg(long)]
    pub proxy: bool,
    /// containerd's socket, instead of the configured one.
    #[arg(long, value_name = "PATH")]
    pub containerd: Option<PathBuf>,
    /// Folder of network plugins, instead of the configured one.
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Folder of network configurations, instead of the configured one.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
}
