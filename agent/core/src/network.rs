//! The node's networks: which address is the node's, what the `node` and `prefix` maps hold, what must not overlap.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use keelson_abi::{PREFIX_LOCAL_PODS, PREFIX_NODE_ADDRESS, PREFIX_SERVICES};

/// The networks the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    /// Addresses of this node's pods.
    pub pods: Ipv4Net,
    /// Addresses of Services.
    pub services: Ipv4Net,
}

/// A device that leads outside, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Whether a default route leaves by it.
    pub default_route: bool,
    /// Its global addresses with their networks.
    pub addresses: Vec<IpNet>,
}

/// Two networks that hold the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overlap {
    /// Pods and Services.
    #[error(
        "podCIDR {pods} and serviceCIDR {services} overlap; give them networks of their own in the node's configuration"
    )]
    Own {
        /// Pod network.
        pods: Ipv4Net,
        /// Service network.
        services: Ipv4Net,
    },
    /// One of ours and a network the node is attached to.
    #[error(
        "{field} {ours} overlaps {theirs} of device {device}; choose another network in the node's configuration"
    )]
    Uplink {
        /// `podCIDR` or `serviceCIDR`.
        field: &'static str,
        /// Our network.
        ours: Ipv4Net,
        /// The device's network.
        theirs: IpNet,
        /// The device.
        device: String,
    },
}

/// The first pair of networks that overlap: traffic to one would be taken for the other.
pub fn overlap(networks: Networks, uplinks: &[Uplink]) -> Option<Overlap> {
    let Networks { pods, services } = networks;
    let meet = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
    if meet(pods.into(), services.into()) {
        return Some(Overlap::Own { pods, services });
    }
    let fields = [("podCIDR", pods), ("serviceCIDR", services)];
    uplinks.iter().find_map(|uplink| {
        uplink.addresses.iter().find_map(|address| {
            let theirs = address.trunc();
            let (field, ours) = fields
                .into_iter()
                .find(|(_, ours)| meet((*ours).into(), theirs))?;
            Some(Overlap::Uplink {
                field,
                ours,
                theirs,
                device: uplink.name.clone(),
            })
        })
    })
}

/// The node's address: the configured one if an uplink holds it, else the first IPv4 address of the uplink with the default
/// route, else of the first uplink. `None` = the node has no address yet.
pub fn node_address(configured: Option<IpAddr>, uplinks: &[Uplink]) -> Option<Ipv4Addr> {
    let v4 = |uplink: &Uplink| uplink.addresses.iter().find_map(|net| ipv4(net.addr()));
    let held = |wanted: IpAddr| {
        uplinks
            .iter()
            .flat_map(|uplink| &uplink.addresses)
            .any(|net| net.addr() == wanted)
    };
    if let Some(wanted) = configured.filter(|wanted| held(*wanted)) {
        return ipv4(wanted);
    }
    let first = uplinks.iter().filter(|uplink| uplink.default_route).find_map(v4);
    first.or_else(|| uplinks.iter().find_map(v4))
}

/// The `prefix` map of this node, sorted.
pub fn prefixes(networks: Networks, uplinks: &[Uplink]) -> Vec<(IpNet, u32)> {
    let own = [
        (networks.pods.into(), PREFIX_LOCAL_PODS),
        (networks.services.into(), PREFIX_SERVICES),
    ];
    let addresses = uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let mut prefixes: Vec<(IpNet, u32)> = own
        .into_iter()
        .chain(addresses.map(|net| (IpNet::from(net.addr()), PREFIX_NODE_ADDRESS)))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        Networks {
            pods: "10.244.0.0/24".parse().expect("CIDR"),
            services: "10.96.0.0/16".parse().expect("CIDR"),
        }
    }

    fn uplink(name: &str, default_route: bool, addresses: &[&str]) -> Uplink {
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect();
        Uplink {
            name: name.into(),
            ifindex: 2,
            default_route,
            addresses,
        }
    }

    #[test]
    fn an_uplink_within_or_around_our_networks_is_refused_by_name() {
        for theirs in ["10.244.0.7/28", "10.0.0.1/8", "10.96.3.4/24"] {
            let found = overlap(networks(), &[uplink("eth0", true, &["192.168.1.1/24", theirs])]);
            let message = found.expect("an overlap").to_string();
            assert!(message.contains("eth0"), "{message}");
        }
        assert_eq!(
            overlap(networks(), &[uplink("eth0", true, &["192.168.1.1/24"])]),
            None
        );
    }

    #[test]
    fn pods_and_services_need_networks_of_their_own() {
        let same = Networks {
            services: "10.244.0.0/16".parse().expect("CIDR"),
            ..networks()
        };
        assert!(matches!(overlap(same, &[]), Some(Overlap::Own { .. })));
    }

    #[test]
    fn the_nodes_address_is_the_configured_one_else_that_of_the_default_route() {
        let uplinks = [
            uplink("a", false, &["10.1.0.1/24"]),
            uplink("b", true, &["fd00::1/64", "10.2.0.1/24"]),
        ];
        let address = |text: &str| text.parse::<IpAddr>().expect("address");
        assert_eq!(
            node_address(Some(address("10.1.0.1")), &uplinks),
            Some(Ipv4Addr::new(10, 1, 0, 1))
        );
        assert_eq!(node_address(None, &uplinks), Some(Ipv4Addr::new(10, 2, 0, 1)));
        // A configured address that no device holds cannot be answered from.
        assert_eq!(
            node_address(Some(address("10.9.0.1")), &uplinks),
            Some(Ipv4Addr::new(10, 2, 0, 1))
        );
        assert_eq!(node_address(None, &[]), None);
    }

    #[test]
    fn every_address_of_every_uplink_is_one_of_the_nodes() {
        let found = prefixes(networks(), &[uplink("a", true, &["10.1.0.1/24", "10.1.0.2/24"])]);
        let of = |text: &str| {
            found
                .iter()
                .find(|(net, _)| net.to_string() == text)
                .map(|(_, kind)| *kind)
        };
        assert_eq!(of("10.1.0.1/32"), Some(PREFIX_NODE_ADDRESS));
        assert_eq!(of("10.1.0.2/32"), Some(PREFIX_NODE_ADDRESS));
        assert_eq!(of("10.244.0.0/24"), Some(PREFIX_LOCAL_PODS));
        assert_eq!(of("10.96.0.0/16"), Some(PREFIX_SERVICES));
    }
}
