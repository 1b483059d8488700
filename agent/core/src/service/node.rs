//! This node, as far as Services see it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::network::node_ports::NodePortAddresses as Words;

/// Label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Word for "the node's primary addresses" in `nodePortAddresses`.
const PRIMARY: &str = "primary";

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
    /// From the configuration's own words.
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

    /// From the configuration: nothing or the one word `primary`, or networks.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() || texts == [PRIMARY] {
            return Ok(Self::Primary);
        }
        let network = |text: &String| {
            super::address::parse_network(text).ok_or_else(|| {
                format!("{text:?} is neither a network such as 192.168.0.0/16 nor the one word {PRIMARY:?}")
            })
        };
        texts
            .iter()
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self::Networks)
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
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        NodeView {
            primary: vec![addresses[0], addresses[2]],
            addresses: BTreeSet::from(addresses),
            node_ports: NodePortAddresses::parse(&texts).expect("networks"),
            ..NodeView::default()
        }
    }

    fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unset_means_the_primary_address_of_each_family() {
        for unset in [&[][..], &["primary"]] {
            let node = node(unset);
            assert_eq!(texts(node.node_port_addresses(false)), ["192.168.1.1"]);
            assert_eq!(texts(node.node_port_addresses(true)), ["2001:db8::1"]);
            assert_eq!(texts(node.health_check_addresses(false)), ["192.168.1.1"]);
        }
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

    #[test]
    fn a_word_among_networks_is_refused_by_name() {
        let texts = ["primary".to_owned(), "10.0.0.0/8".to_owned()];
        assert!(NodePortAddresses::parse(&texts).is_err_and(|text| text.contains("primary")));
    }
}
