//! The node's configuration: one YAML file of documents.
//!
//! `KeelsonConfiguration` (`keelson.dev/v1`) holds everything; a `KubeletConfiguration`
//! (`kubelet.config.k8s.io/v1beta1`) beside it is read as well, so that a node's existing file keeps its
//! meaning (clusterDomain, staticPodPath, podLogsDir, podCIDR, cgroupRoot). A field that is set but not supported is refused by name: a setting that is silently
//! ignored is a fault found much later. Without a file the defaults of [`Config::default`] hold.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use keelson_core::manifest::document::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::yaml;

/// `apiVersion` of [`Config`].
pub const API_VERSION: &str = "keelson.dev/v1";
/// `kind` of [`Config`].
pub const KIND: &str = "KeelsonConfiguration";

const KUBELET_API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KUBELET_KIND: &str = "KubeletConfiguration";

/// Fields of a `KubeletConfiguration` that are read, and the fields of [`Config`] they set.
const KUBELET_FIELDS: [(&str, &str); 5] = [
    ("clusterDomain", "clusterDomain"),
    ("staticPodPath", "manifests"),
    ("podLogsDir", "podLogs"),
    ("podCIDR", "podCIDR"),
    ("cgroupRoot", "cgroupParent"),
];

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
    /// Pods' addresses. Default `10.244.0.0/24`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Services' cluster addresses. Default `10.96.0.0/16`.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// First and last port of NodePort Services, written `"30000-32767"`, which is the default.
    #[serde(with = "port_range")]
    pub node_port_range: (u16, u16),
    /// The node's own address. Default unset: that of the device of the default route.
    pub node_address: Option<IpAddr>,
    /// Devices that carry no pod or Service traffic although they have an address. Default none.
    pub excluded_interfaces: Vec<String>,
    /// Domain of Services' names. Default `cluster.local`.
    pub cluster_domain: String,
    /// Where `/healthz` answers. Default `127.0.0.1:10248`.
    pub health_address: SocketAddr,
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
            pod_cidr: Ipv4Net::new_assert([10, 244, 0, 0].into(), 24),
            service_cidr: Ipv4Net::new_assert([10, 96, 0, 0].into(), 16),
            node_port_range: (30000, 32767),
            node_address: None,
            excluded_interfaces: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            health_address: SocketAddr::from(([127, 0, 0, 1], 10248)),
        }
    }
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
    /// Read a configuration file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Understand the text of a configuration file called `file`.
    pub fn parse(text: &str, file: &str) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut fields = Map::new();
        let mut kinds = BTreeSet::new();
        for document in yaml::documents(text, yaml::Format::Yaml) {
            match document {
                Ok(document) => read_document(&document, &mut fields, &mut kinds, &mut problems),
                Err(error) => problems.push(error.to_string()),
            }
        }
        // Every field was tried by itself, so together they can only fail where one of them did.
        match serde_json::from_value::<Self>(Value::Object(fields)) {
            Ok(config) if problems.is_empty() => {
                problems = config.problems();
                if problems.is_empty() {
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

    /// The socket of the control API.
    pub fn socket(&self) -> PathBuf {
        self.run.join("keelson.sock")
    }

    /// What contradicts itself or cannot work; empty = fine.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_dns_name(&self.node_name) {
            problems.push(format!(
                "nodeName: {:?} is not a DNS name (lower case letters, digits, '-' and '.')",
                self.node_name
            ));
        }
        if !is_dns_name(&self.cluster_domain) {
            problems.push(format!(
                "clusterDomain: {:?} is not a DNS name",
                self.cluster_domain
            ));
        }
        let overlap =
            self.pod_cidr.contains(&self.service_cidr) || self.service_cidr.contains(&self.pod_cidr);
        if overlap {
            problems.push(format!(
                "podCIDR {} and serviceCIDR {} overlap: a pod could get a Service's address",
                self.pod_cidr, self.service_cidr
            ));
        }
        for (field, net) in [("podCIDR", self.pod_cidr), ("serviceCIDR", self.service_cidr)] {
            if net.addr() != net.network() {
                problems.push(format!(
                    "{field}: {net} is not the start of a network; {} is",
                    net.trunc()
                ));
            }
            if net.prefix_len() > 30 || net.prefix_len() < 8 {
                problems.push(format!("{field}: {net} must have a prefix length from 8 to 30"));
            }
            if let Some(IpAddr::V4(address)) = self.node_address
                && net.contains(&address)
            {
                problems.push(format!("nodeAddress {address} lies within {field} {net}"));
            }
        }
        if !self.cgroup_parent.is_empty() && !self.cgroup_parent.starts_with('/') {
            problems.push(format!(
                "cgroupParent: {:?} must start with '/'",
                self.cgroup_parent
            ));
        }
        for (field, path) in self.paths() {
            if !path.is_absolute() {
                problems.push(format!("{field}: {} is not an absolute path", path.display()));
            }
        }
        problems
    }

    fn paths(&self) -> [(&'static str, &Path); 11] {
        [
            ("root", &self.root),
            ("run", &self.run),
            ("manifests", &self.manifests),
            ("images", &self.images),
            ("state", &self.state),
            ("podLogs", &self.pod_logs),
            ("bpf", &self.bpf),
            ("cgroup", &self.cgroup),
            ("containerd", &self.containerd),
            ("cniConfDir", &self.cni_conf_dir),
            ("cniBinDir", &self.cni_bin_dir),
        ]
    }
}

/// Take the fields of one document; what cannot be taken is a problem, all are told at once.
fn read_document(
    document: &Document,
    fields: &mut Map<String, Value>,
    kinds: &mut BTreeSet<&'static str>,
    problems: &mut Vec<String>,
) {
    let at = |path: &str| format!("document {}, line {}: ", document.number, document.line_of(path));
    let text = |name: &str| {
        document
            .value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let rename: fn(&str) -> Option<&str> = match (text("apiVersion"), text("kind")) {
        (API_VERSION, KIND) => |name| Some(name),
        (KUBELET_API_VERSION, KUBELET_KIND) => |name| {
            KUBELET_FIELDS
                .iter()
                .find(|(theirs, _)| *theirs == name)
                .map(|(_, ours)| *ours)
        },
        (version, kind) => {
            problems.push(format!(
                "{}kind {kind:?} of apiVersion {version:?} is not read by this version; {KIND} ({API_VERSION}) and \
                 {KUBELET_KIND} ({KUBELET_API_VERSION}) are",
                at("kind")
            ));
            return;
        }
    };
    let kind = if text("kind") == KIND { KIND } else { KUBELET_KIND };
    if !kinds.insert(kind) {
        problems.push(format!("{}a second {kind}; one per file", at("kind")));
        return;
    }
    let Value::Object(known) = serde_json::to_value(Config::default()).unwrap_or_default() else {
        return;
    };
    for (name, value) in document.value.as_object().into_iter().flatten() {
        if name == "apiVersion" || name == "kind" || value.is_null() {
            continue;
        }
        let Some(ours) = rename(name).filter(|ours| known.contains_key(*ours)) else {
            problems.push(format!(
                "{}{name}: field of {kind} that this version does not support",
                at(name)
            ));
            continue;
        };
        let one = Map::from_iter([(ours.to_owned(), value.clone())]);
        if let Err(error) = serde_json::from_value::<Config>(Value::Object(one)) {
            problems.push(format!("{}{name}: {error}", at(name)));
        } else if fields.get(ours).is_some_and(|other| other != value) {
            problems.push(format!(
                "{}{name}: contradicts {ours} of the other document",
                at(name)
            ));
        } else {
            fields.insert(ours.to_owned(), value.clone());
        }
    }
}

mod port_range {
    //! A range of ports, written `first-last`.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(range: &(u16, u16), serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}-{}", range.0, range.1))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(u16, u16), D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text
            .split_once('-')
            .map(|(first, last)| (first.trim().parse(), last.trim().parse()));
        match parts {
            Some((Ok(first), Ok(last))) if 0 < first && first <= last => Ok((first, last)),
            _ => Err(D::Error::custom(format!(
                "{text:?} is no range of ports such as \"30000-32767\""
            ))),
        }
    }
}

/// Lower case letters, digits, `-` and `.`; each part starts and ends with a letter or digit.
fn is_dns_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.len() <= 63
                && label.starts_with(word)
                && label.ends_with(word)
                && label.chars().all(|c| word(c) || c == '-')
        })
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .map(|name| name.to_ascii_lowercase())
        .filter(|name| is_dns_name(name))
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: keelson.dev/v1\nkind: KeelsonConfiguration\n";

    fn problems(text: &str) -> String {
        Config::parse(text, "node.yaml").expect_err("refused").to_string()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(Config::parse("", "node.yaml").expect("fine"), Config::default());
        assert_eq!(Config::parse(HEAD, "node.yaml").expect("fine"), Config::default());
        assert!(Config::default().problems().is_empty());
    }

    #[test]
    fn every_field_can_be_set() {
        let fields = "nodeName: n1\nroot: /a\nrun: /b\nmanifests: /c\nimages: /d\nstate: /e\npodLogs: /f\nbpf: /g\ncgroup: /h\n\
            cgroupParent: /p\ncontainerd: /i\ncniConfDir: /j\ncniBinDir: /k\npodCIDR: 10.1.0.0/24\nserviceCIDR: 10.2.0.0/16\n\
            nodePortRange: 31000-31999\nnodeAddress: 192.0.2.1\nexcludedInterfaces: [eth9]\nclusterDomain: example.test\n\
            healthAddress: 127.0.0.1:9\n";
        let config = Config::parse(&format!("{HEAD}{fields}"), "node.yaml").expect("fine");
        assert_eq!(config.node_port_range, (31000, 31999));
        assert_eq!(config.socket(), PathBuf::from("/b/keelson.sock"));
        // Every field differs from its default, so none was forgotten in the text above or ignored by the parser.
        let (set, default) = (
            serde_json::to_value(&config),
            serde_json::to_value(Config::default()),
        );
        for (name, value) in default.expect("serialises").as_object().expect("map") {
            assert_ne!(&set.as_ref().expect("serialises")[name], value, "{name}");
        }
    }

    #[test]
    fn unsupported_fields_are_refused_by_name_and_line_all_at_once() {
        let text = format!(
            "{HEAD}nodeNam: x\npodCIDR: 10.0.0.0\n---\napiVersion: kubelet.config.k8s.io/v1beta1\n\
            kind: KubeletConfiguration\nmaxPods: 20\nclusterDomain: a.test\n"
        );
        let message = problems(&text);
        for expected in [
            "document 1, line 3: nodeNam:",
            "document 1, line 4: podCIDR:",
            "document 2, line 8: maxPods: field of KubeletConfiguration",
        ] {
            assert!(message.contains(expected), "{expected:?} in {message}");
        }
    }

    #[test]
    fn a_kubelet_configuration_keeps_its_meaning() {
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
            clusterDomain: a.test\nstaticPodPath: /etc/kubernetes/manifests\npodLogsDir: /logs\n";
        let config = Config::parse(text, "node.yaml").expect("fine");
        assert_eq!(config.cluster_domain, "a.test");
        assert_eq!(config.manifests, PathBuf::from("/etc/kubernetes/manifests"));
        assert_eq!(config.pod_logs, PathBuf::from("/logs"));
        let both = format!("{HEAD}clusterDomain: b.test\n---\n{text}");
        assert!(
            problems(&both).contains("clusterDomain: contradicts clusterDomain"),
            "{}",
            problems(&both)
        );
    }

    #[test]
    fn documents_of_other_kinds_are_refused_by_name() {
        let text =
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
        assert!(
            problems(text).contains("\"KubeProxyConfiguration\""),
            "{}",
            problems(text)
        );
        assert!(problems(&format!("{HEAD}---\n{HEAD}")).contains("a second KeelsonConfiguration"));
        assert!(problems("a: [").contains("document 1, line 1"));
    }

    #[test]
    fn networks_that_overlap_or_are_none_are_refused() {
        for (fields, expected) in [
            ("podCIDR: 10.96.7.0/24", "overlap"),
            ("podCIDR: 10.0.0.0/8", "overlap"),
            ("podCIDR: 10.244.0.5/24", "10.244.0.0/24 is"),
            ("podCIDR: 10.244.0.0/31", "prefix length"),
            ("nodeAddress: 10.96.0.1", "lies within serviceCIDR"),
            ("nodePortRange: 32000-31000", "range of ports"),
            ("nodePortRange: 0-5", "range of ports"),
            ("nodeName: Node_1", "not a DNS name"),
            ("run: relative", "run: relative is not an absolute path"),
            ("cgroupParent: x", "must start with '/'"),
        ] {
            let message = problems(&format!("{HEAD}{fields}\n"));
            assert!(message.contains(expected), "{fields}: {message}");
        }
    }
}
