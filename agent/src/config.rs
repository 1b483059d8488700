//! The node's configuration: one YAML file of documents.
//!
//! `KeelsonConfiguration` (`keelson.dev/v1`) holds everything; a `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`) and a
//! `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`) beside it are read as well, so that a node's existing files keep
//! their meaning. A field that is set but not supported is refused by name; one that has no meaning here is noted. Without a file
//! the defaults of [`Config::default`] hold.

mod documents;
mod forms;
mod kube_proxy;
mod problems;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use keelson_core::network::{node_ports::NodePortAddresses, peers::Mode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::documents::Reading;
pub use self::forms::{LoadBalancing, LocalDetector, PodNetwork, Vxlan};
use crate::yaml;

/// `apiVersion` of [`Config`].
pub const API_VERSION: &str = "keelson.dev/v1";
/// `kind` of [`Config`].
pub const KIND: &str = "KeelsonConfiguration";

/// What the agent is told by its node's owner. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Name of the Node object. Default: the host name, in lower case.
    pub node_name: String,
    /// Pods' directories (volumes, termination messages). Default `/var/lib/kubelet`, as kubelet's.
    pub root: PathBuf,
    /// Run-time state that must not survive a reboot: sockets, locks, addresses in use. Default `/run/keelson`.
    pub run: PathBuf,
    /// Folder of the manifests this node runs. Default `/etc/keelson/manifests`.
    pub manifests: PathBuf,
    /// OCI image tars in this folder are imported. Default `/var/lib/keelson/images`.
    pub images: PathBuf,
    /// State that must survive a reboot: UIDs, allocated addresses, last good manifests. Default `/var/lib/keelson`.
    pub state: PathBuf,
    /// Logs of containers. Default `/var/log/pods`, where log shippers look.
    pub pod_logs: PathBuf,
    /// Mount point of the BPF file system. Default `/sys/fs/bpf`.
    pub bpf: PathBuf,
    /// Mount point of the cgroup file systems. Default `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// Cgroup below which pods' cgroups are made, such as `/node-1`. Default empty: the root.
    pub cgroup_parent: String,
    /// containerd's socket. Default `/run/containerd/containerd.sock`.
    pub containerd: PathBuf,
    /// Where the runtime looks for network configurations. Default `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// Where the runtime looks for network plugins. Default `/opt/cni/bin`.
    pub cni_bin_dir: PathBuf,
    /// Whose pod network the node has. Default `own`; `keelson proxy` takes `other` where nothing is said.
    pub pod_network: PodNetwork,
    /// Pods' IPv4 addresses. Default `10.244.0.0/24`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Pods' networks, an IPv4 one first and at most one IPv6 one. Default: only [`Config::pod_cidr`].
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// How packets travel between pods of different nodes. Default `native`.
    pub pod_routing: Mode,
    /// The tunnel of `vxlan` and `crossSubnet`; the same on all nodes. Default port 4789, id 27493.
    pub vxlan: Vxlan,
    /// Services' cluster addresses, IPv4. Default `10.96.0.0/16`.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// Services' networks, an IPv4 one first and at most one IPv6 one. Default: only [`Config::service_cidr`].
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// First and last port of NodePort Services, written `"30000-32767"`, which is the default.
    #[serde(with = "forms::port_range")]
    pub node_port_range: (u16, u16),
    /// Which of the node's addresses serve NodePorts: networks, or the one word `primary`. Default none said: all of them.
    #[serde(with = "forms::texts")]
    pub node_port_addresses: Vec<NodePortAddresses>,
    /// Whether processes of the host reach NodePorts at 127.0.0.1, too. Default true.
    pub localhost_node_ports: bool,
    /// Whether Services' `externalIPs` are programmed: whoever may write Services then takes any address on this node. Default true.
    #[serde(rename = "externalIPs")]
    pub external_ips: bool,
    /// Whether everything that asks a Service is masqueraded. Default false.
    pub masquerade_all: bool,
    /// Which clients are pods of the cluster. Default `nodeCIDR`.
    pub local_detector: LocalDetector,
    /// Source ports of what is masqueraded, written `"20000-29999"`, which is the default.
    #[serde(with = "forms::port_range")]
    pub snat_ports: (u16, u16),
    /// How endpoints are chosen. Default `random`.
    pub load_balancing: LoadBalancing,
    /// Whether established connections are reset when their endpoint is gone; Services may ask for it one by one. Default false.
    pub reset_gone_connections: bool,
    /// Whether processes' sockets are connected to endpoints directly where that is possible. Default false; this version
    /// translates every packet instead, and says so.
    pub socket_hooks: bool,
    /// Services are programmed at the latest after this long; one that waits twice as long makes the proxy unhealthy. Default `30s`.
    #[serde(with = "forms::span")]
    pub sync_period: Duration,
    /// The node's own address. Default unset: that of the device of the default route.
    pub node_address: Option<IpAddr>,
    /// Devices that carry no pod or Service traffic although they have an address. Default none.
    pub excluded_interfaces: Vec<String>,
    /// Where another plugin makes the pods' links: the devices that lead to pods. Default none said: all whose other end is in
    /// another network namespace.
    pub pod_interfaces: Vec<String>,
    /// Domain of Services' names. Default `cluster.local`.
    pub cluster_domain: String,
    /// Where kubelet's `/healthz` answers. Default `127.0.0.1:10248`.
    pub health_address: SocketAddr,
    /// Where the service proxy's `/healthz`, `/livez` and `/proxyMode` answer; `""` = nowhere. Default `0.0.0.0:10256`.
    #[serde(with = "forms::listen")]
    pub healthz_address: Option<SocketAddr>,
    /// Where `/metrics` answers; `""` = nowhere. Default `127.0.0.1:10249`.
    #[serde(with = "forms::listen")]
    pub metrics_address: Option<SocketAddr>,
    /// The agent's own score for the kernel's choice of whom to kill when memory runs out. Default unset: as it was started.
    pub oom_score_adj: Option<i32>,
    /// What the agent does on this node; the command says it.
    #[serde(skip)]
    pub part: Part,
    /// What the file says that has no meaning here.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// Whether a pod network was said, and is not only the default.
    #[serde(skip)]
    pub pod_cidr_given: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: host_name(),
            root: "/var/lib/kubelet".into(),
            run: "/run/keelson".into(),
            manifests: "/etc/keelson/manifests".into(),
            images: "/var/lib/keelson/images".into(),
            state: "/var/lib/keelson".into(),
            pod_logs: "/var/log/pods".into(),
            bpf: "/sys/fs/bpf".into(),
            cgroup: "/sys/fs/cgroup".into(),
            cgroup_parent: String::new(),
            containerd: "/run/containerd/containerd.sock".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            pod_network: PodNetwork::Own,
            pod_cidr: Ipv4Net::new_assert([10, 244, 0, 0].into(), 24),
            pod_cidrs: Vec::new(),
            pod_routing: Mode::Native,
            vxlan: Vxlan::default(),
            service_cidr: Ipv4Net::new_assert([10, 96, 0, 0].into(), 16),
            service_cidrs: Vec::new(),
            node_port_range: (30000, 32767),
            node_port_addresses: Vec::new(),
            localhost_node_ports: true,
            external_ips: true,
            masquerade_all: false,
            local_detector: LocalDetector::NodeCidr,
            snat_ports: keelson_dataplane::abi::SNAT_PORTS,
            load_balancing: LoadBalancing::Random,
            reset_gone_connections: false,
            socket_hooks: false,
            sync_period: Duration::from_secs(30),
            node_address: None,
            excluded_interfaces: Vec::new(),
            pod_interfaces: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            health_address: SocketAddr::from(([127, 0, 0, 1], 10248)),
            healthz_address: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            metrics_address: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
            oom_score_adj: None,
            part: Part::Node,
            notes: Vec::new(),
            pod_cidr_given: false,
        }
    }
}

/// What an agent does on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it: `keelson node`.
    #[default]
    Node,
    /// Services only, beside a kubelet and a pod network: `keelson proxy`.
    Proxy,
}

/// What the command line says of the configuration: it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Fields of a `KubeProxyConfiguration`.
    pub kube_proxy: Map<String, Value>,
    /// Fields of [`Config`].
    pub ours: Map<String, Value>,
    /// Fields of [`Config`] for which another default holds.
    pub defaults: Map<String, Value>,
    /// What the command does.
    pub part: Part,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Documents or values that cannot be used.
    #[error("configuration {file}: {}", problems.join("; "))]
    Invalid {
        /// Name of the file.
        file: String,
        /// All of them.
        problems: Vec<String>,
    },
}

impl Config {
    /// Read a configuration file; without one the defaults and the flags hold.
    pub fn read(path: Option<&Path>, flags: &Flags) -> Result<Self, Error> {
        let Some(path) = path else {
            return Self::parse("", "(none)", flags);
        };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string(), flags)
    }

    /// Understand the text of a configuration file called `file`.
    pub fn parse(text: &str, file: &str, flags: &Flags) -> Result<Self, Error> {
        let mut reading = Reading::default();
        for document in yaml::documents(text, yaml::Format::Yaml) {
            match document {
                Ok(document) => reading.document(&document),
                Err(error) => reading.problems.push(error.to_string()),
            }
        }
        reading.flags(flags);
        let Reading {
            mut fields,
            defaults,
            notes,
            mut problems,
            ..
        } = reading;
        let pod_cidr_given = fields.contains_key("podCIDR") || fields.contains_key("podCIDRs");
        for (name, value) in defaults.into_iter().chain(flags.defaults.clone()) {
            fields.entry(name).or_insert(value);
        }
        first_families(&mut fields);
        // Every field was tried by itself, so together they can only fail where one of them did.
        match serde_json::from_value::<Self>(Value::Object(fields)) {
            Ok(config) if problems.is_empty() => {
                let config = Self {
                    notes,
                    pod_cidr_given,
                    part: flags.part,
                    ..config
                };
                problems = config.problems();
                if problems.is_empty() {
                    let mut config = config;
                    config.notes.extend(config.without_effect());
                    return Ok(config);
                }
            }
            Ok(_) => {}
            Err(error) => problems.push(error.to_string()),
        }
        Err(Error::Invalid {
            file: file.to_owned(),
            problems,
        })
    }

    /// What is asked for and not done by this version: said, so that nobody relies on it.
    fn without_effect(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.socket_hooks {
            said.push("socketHooks: this version has none; every packet is translated instead".to_owned());
        }
        if self.pod_network == PodNetwork::Other {
            said.push(
                "podNetwork other: what pods of another plugin send to Services is not translated by this version".to_owned(),
            );
        }
        if !self.pod_interfaces.is_empty() {
            said.push("podInterfaces: no programs are put on these devices by this version".to_owned());
        }
        if matches!(self.local_detector, LocalDetector::InterfacePrefix(_)) {
            said.push(
                "localDetector interfacePrefix: this version tells pods by their networks only".to_owned(),
            );
        }
        said
    }

    /// The socket of the control API.
    pub fn socket(&self) -> PathBuf {
        self.run.join("keelson.sock")
    }

    /// Pods' IPv6 network.
    pub fn pod_cidr_v6(&self) -> Option<Ipv6Net> {
        second_family(&self.pod_cidrs)
    }

    /// Services' IPv6 network.
    pub fn service_cidr_v6(&self) -> Option<Ipv6Net> {
        second_family(&self.service_cidrs)
    }

    /// Networks of this node's pods, as far as they are known: where another plugin makes the pods' links, only what was said.
    pub fn all_pod_cidrs(&self) -> Vec<IpNet> {
        if self.pod_network == PodNetwork::Other && !self.pod_cidr_given {
            return Vec::new();
        }
        both_families(self.pod_cidr, self.pod_cidr_v6())
    }

    /// Networks of Services.
    pub fn all_service_cidrs(&self) -> Vec<IpNet> {
        both_families(self.service_cidr, self.service_cidr_v6())
    }

    /// Networks of pods of all nodes, as far as they are known.
    pub fn cluster_pod_cidrs(&self) -> &[IpNet] {
        match &self.local_detector {
            LocalDetector::ClusterCidr(networks) => networks,
            LocalDetector::NodeCidr | LocalDetector::InterfacePrefix(_) => &[],
        }
    }
}

/// The lists of networks hold for the single fields, too.
fn first_families(fields: &mut Map<String, Value>) {
    for (single, list) in [("podCIDR", "podCIDRs"), ("serviceCIDR", "serviceCIDRs")] {
        let networks = fields.get(list).and_then(Value::as_array).into_iter().flatten();
        let four = networks
            .filter_map(Value::as_str)
            .find(|text| text.parse::<Ipv4Net>().is_ok())
            .map(|text| json!(text));
        if let (Some(four), None) = (four, fields.get(single)) {
            fields.insert(single.to_owned(), four);
        }
    }
}

fn second_family(networks: &[IpNet]) -> Option<Ipv6Net> {
    networks.iter().find_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    })
}

fn both_families(four: Ipv4Net, six: Option<Ipv6Net>) -> Vec<IpNet> {
    let six = six.map(IpNet::V6);
    [IpNet::V4(four)].into_iter().chain(six).collect()
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .map(|name| name.to_ascii_lowercase())
        .filter(|name| problems::is_dns_name(name))
        .unwrap_or_else(|| "localhost".to_owned())
}
