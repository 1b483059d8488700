//! What contradicts itself in a configuration, or cannot work.

use std::{net::IpAddr, path::Path};

use ipnet::IpNet;
use keelson_core::network::node_ports::NodePortAddresses;

use super::{Config, LocalDetector, PodNetwork};

impl Config {
    /// What contradicts itself or cannot work; empty = fine.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.names(&mut problems);
        self.networks(&mut problems);
        self.ports(&mut problems);
        for (field, path) in self.paths() {
            if !path.is_absolute() {
                problems.push(format!("{field}: {} is not an absolute path", path.display()));
            }
        }
        if let Some(score) = self.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            problems.push(format!("oomScoreAdj: {score} is not from -1000 to 1000"));
        }
        if self.vxlan.port == 0 || self.vxlan.id >= 1 << 24 {
            problems.push(format!(
                "vxlan: port {} must not be 0, and id {} must be below 2^24",
                self.vxlan.port, self.vxlan.id
            ));
        }
        if self.sync_period.is_zero() {
            problems.push("syncPeriod: must be longer than nothing".to_owned());
        }
        problems
    }

    fn names(&self, problems: &mut Vec<String>) {
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
        if !self.cgroup_parent.is_empty() && !self.cgroup_parent.starts_with('/') {
            problems.push(format!(
                "cgroupParent: {:?} must start with '/'",
                self.cgroup_parent
            ));
        }
        if let LocalDetector::InterfacePrefix(prefix) = &self.local_detector {
            if prefix.is_empty() {
                problems
                    .push("localDetector: interfacePrefix: an empty prefix names every device".to_owned());
            }
            if self.pod_network == PodNetwork::Own {
                problems.push(
                    "localDetector: interfacePrefix is for pods whose links another plugin makes (podNetwork: other)"
                        .to_owned(),
                );
            }
        }
    }

    fn networks(&self, problems: &mut Vec<String>) {
        for (field, single, list) in [
            ("podCIDR", self.pod_cidr, &self.pod_cidrs),
            ("serviceCIDR", self.service_cidr, &self.service_cidrs),
        ] {
            let of = |four: bool| list.iter().filter(move |net| matches!(net, IpNet::V4(_)) == four);
            if list.is_empty() {
                continue;
            }
            if of(true).count() != 1 || of(false).count() > 1 {
                problems.push(format!(
                    "{field}s: one IPv4 network, and at most one IPv6 network beside it, are needed"
                ));
            } else if of(true).next() != Some(&IpNet::V4(single)) {
                problems.push(format!("{field}: {single} contradicts {field}s"));
            }
        }
        let pods = self.all_pod_cidrs();
        let services = self.all_service_cidrs();
        for (field, networks) in [("podCIDR", &pods), ("serviceCIDR", &services)] {
            for net in networks {
                self.network(field, *net, problems);
            }
        }
        for (field, others) in [
            ("podCIDR", pods.as_slice()),
            ("localDetector: clusterCIDR", self.cluster_pod_cidrs()),
        ] {
            for (pods, services) in others
                .iter()
                .flat_map(|net| services.iter().map(move |other| (net, other)))
            {
                if pods.contains(services) || services.contains(pods) {
                    problems.push(format!(
                        "{field} {pods} and serviceCIDR {services} overlap: a pod could get a Service's address"
                    ));
                }
            }
        }
    }

    fn network(&self, field: &str, net: IpNet, problems: &mut Vec<String>) {
        if net.addr() != net.network() {
            problems.push(format!(
                "{field}: {net} is not the start of a network; {} is",
                net.trunc()
            ));
        }
        let longest = if net.addr().is_ipv4() { 30 } else { 126 };
        if net.prefix_len() > longest || net.prefix_len() < 8 {
            problems.push(format!(
                "{field}: {net} must have a prefix length from 8 to {longest}"
            ));
        }
        if let Some(address) = self.node_address.filter(|address| net.contains(address)) {
            problems.push(format!("nodeAddress {address} lies within {field} {net}"));
        }
    }

    fn ports(&self, problems: &mut Vec<String>) {
        let ((first, last), (low, high)) = (self.node_port_range, self.snat_ports);
        if first <= high && low <= last {
            problems.push(format!(
                "snatPorts {low}-{high} and nodePortRange {first}-{last} overlap: an answer could be taken for a request"
            ));
        }
        let words = &self.node_port_addresses;
        if words.len() > 1 && words.contains(&NodePortAddresses::Primary) {
            problems.push(
                "nodePortAddresses: primary stands alone; networks beside it would have no effect".to_owned(),
            );
        }
        let listeners = [
            ("healthAddress", Some(self.health_address)),
            ("healthzAddress", self.healthz_address),
            ("metricsAddress", self.metrics_address),
        ];
        let everywhere = |address: IpAddr| address.is_unspecified();
        for (at, (field, one)) in listeners.iter().enumerate() {
            for (other_field, other) in &listeners[at + 1..] {
                let (Some(one), Some(other)) = (one, other) else {
                    continue;
                };
                let same = one.ip() == other.ip() || everywhere(one.ip()) || everywhere(other.ip());
                if one.port() == other.port() && one.port() != 0 && same {
                    problems.push(format!(
                        "{field} {one} and {other_field} {other} are the same port"
                    ));
                }
            }
        }
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

/// Lower case letters, digits, `-` and `.`; each part starts and ends with a letter or digit.
pub(super) fn is_dns_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.len() <= 63
                && label.starts_with(word)
                && label.ends_with(word)
                && label.chars().all(|c| word(c) || c == '-')
        })
}
