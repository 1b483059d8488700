//! This node, as far as Services see it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::network::node_ports::NodePortAddresses as Words;

/// Label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its first address of each family.
    pub primary: Vec<IpAddr>,
    /// Every address of its own, primary ones included: what makes an endpoint one of the node's own.
    pub addresses: BTreeSet<IpAddr>,
    /// Which of them NodePorts are served on.
    pub node_ports: NodePortAddresses,
    /// Networks that are routed to the dataplane as a whole: their addresses need no route of their own.
    pub service_networks: Vec<IpNet>,
    /// Whether `spec.externalIPs` are programmed. Who may write a Service may claim any address by them.
    pub external_ips: bool,
    /// Whether connections to endpoints that are gone are reset where a Service does not say.
    pub reset_gone: bool,
    /// Whether endpoints are chosen by Maglev tables where a Service does not say.
    pub maglev: bool,
    /// Whether processes of the host reach NodePorts at 127.0.0.1, too.
    pub localhost_node_ports: bool,
}

/// `nodePortAddresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The primary address of each family.
    #[default]
    Primary,
    /// Addresses inside these networks; a family without any means all addresses of that family.
    Networks(Vec<IpNet>),
}

impl NodePortAddresses {
    /// From the configuration's words: `primary` alone, or networks; none = all addresses.
    pub fn of(words: &[Words]) -> Self {
        let networks = words.iter().filter_map(|word| match word {
            Words::Primary => None,
            Words::In(net) => Some(*net),
        });
        if words.contains(&Words::Primary) {
            Self::Primary
        } else {
            Self::Networks(networks.collect())
        }
    }
}

impl NodeView {
    /// Addresses of one family that NodePorts are served on. Loopback ones never are: the host's own processes reach them there
    /// by another way.
    pub fn node_port_addresses(&self, v6: bool) -> Vec<IpAddr> {
        let of_family = |address: &&IpAddr| address.is_ipv6() == v6 && !address.is_loopback();
        match &self.node_ports {
            NodePortAddresses::Primary => self.primary(v6).into_iter().collect(),
            NodePortAddresses::Networks(networks) => {
                let networks: Vec<_> = networks.iter().filter(|net| is_v6(net) == v6).collect();
                let selected = |address: &&IpAddr| {
                    networks.is_empty() || networks.iter().any(|net| net.contains(*address))
                };
                self.addresses
                    .iter()
                    .filter(of_family)
                    .filter(selected)
                    .copied()
                    .collect()
            }
        }
    }

    /// Addresses that health check ports of one family listen on: all of the family by one socket where nothing limits them.
    pub fn health_check_addresses(&self, v6: bool) -> Vec<IpAddr> {
        let everything = match &self.node_ports {
            NodePortAddresses::Primary => false,
            NodePortAddresses::Networks(networks) => {
                let mut networks = networks.iter().filter(|net| is_v6(net) == v6).peekable();
                networks.peek().is_none() || networks.any(|net| net.prefix_len() == 0)
            }
        };
        match (everything, v6) {
            (true, false) => vec![IpAddr::from([0_u8; 4])],
            (true, true) => vec![IpAddr::from([0_u8; 16])],
            (false, _) => self.node_port_addresses(v6),
        }
    }

    /// The primary address of a family.
    pub fn primary(&self, v6: bool) -> Option<IpAddr> {
        self.primary
            .iter()
            .copied()
            .find(|address| address.is_ipv6() == v6)
    }

    /// Whether an address of a Service needs a route of its own, so that processes of the host reach the dataplane.
    pub fn needs_route(&self, address: IpAddr) -> bool {
        !self.addresses.contains(&address)
            && !self.service_networks.iter().any(|net| net.contains(&address))
            && super::address::is_usable(address)
    }
}

/// The primary address of each family among the node's `addresses`, best first: the one that the configuration gives the node, if
/// it has it, else the first.
pub fn primary_addresses(addresses: &[IpAddr], configured: Option<IpAddr>) -> Vec<IpAddr> {
    let of_family = |v6: bool| {
        let mut family = addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == v6);
        let configured = family.clone().find(|address| Some(*address) == configured);
        configured.or_else(|| family.next())
    };
    [of_family(false), of_family(true)]
        .into_iter()
        .flatten()
        .collect()
}

/// The zone that a node's labels name.
pub fn zone(node: &Node) -> Option<String> {
    let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
    (!zone.is_empty()).then(|| zone.clone())
}

fn is_v6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(texts: &[&str]) -> NodeView {
        let addresses = ["192.168.1.1", "10.9.0.1", "2001:db8::1"].map(|text| text.parse().expect("address"));
        let words: Vec<Words> = texts.iter().map(|text| text.parse().expect("a word")).collect();
        NodeView {
            primary: vec![addresses[0], addresses[2]],
            addresses: BTreeSet::from(addresses),
            node_ports: NodePortAddresses::of(&words),
            ..NodeView::default()
        }
    }

    fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn primary_means_the_primary_address_of_each_family_and_unset_all_of_them() {
        let primary = node(&["primary"]);
        assert_eq!(texts(primary.node_port_addresses(false)), ["192.168.1.1"]);
        assert_eq!(texts(primary.node_port_addresses(true)), ["2001:db8::1"]);
        assert_eq!(texts(primary.health_check_addresses(false)), ["192.168.1.1"]);
        let unset = node(&[]);
        assert_eq!(
            texts(unset.node_port_addresses(false)),
            ["10.9.0.1", "192.168.1.1"]
        );
        assert_eq!(texts(unset.node_port_addresses(true)), ["2001:db8::1"]);
        assert_eq!(texts(unset.health_check_addresses(true)), ["::"]);
    }

    #[test]
    fn the_configured_address_is_the_primary_one_if_the_node_has_it() {
        let all = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:1::1"]
            .map(|text| text.parse().expect("address"));
        let primary = |configured: &str| texts(primary_addresses(&all, configured.parse().ok()));
        assert_eq!(primary(""), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(primary("198.51.100.1"), ["198.51.100.1", "2001:db8::1"]);
        assert_eq!(primary("10.9.9.9"), ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn networks_limit_their_own_family_only() {
        let node = node(&["10.0.0.0/8"]);
        assert_eq!(texts(node.node_port_addresses(false)), ["10.9.0.1"]);
        assert_eq!(texts(node.node_port_addresses(true)), ["2001:db8::1"]);
        assert_eq!(texts(node.health_check_addresses(false)), ["10.9.0.1"]);
        assert_eq!(texts(node.health_check_addresses(true)), ["::"]);
    }

    #[test]
    fn a_network_of_everything_listens_on_the_wildcard() {
        let node = node(&["0.0.0.0/0"]);
        assert_eq!(node.node_port_addresses(false).len(), 2);
        assert_eq!(texts(node.health_check_addresses(false)), ["0.0.0.0"]);
    }
}
