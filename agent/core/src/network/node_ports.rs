//! Which of the node's addresses serve NodePorts.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Some of the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's main address of each family.
    Primary,
    /// Those in a network.
    In(IpNet),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        text.parse()
            .map(Self::In)
            .map_err(|_| format!("{text:?} is neither a network such as 192.0.2.0/24 nor \"primary\""))
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::In(net) => net.fmt(f),
        }
    }
}

/// Those of the node's `addresses` (best first) that `wanted` names, in their order; nothing wanted = all of them. `main` is the
/// address that the configuration gives the node: it is the primary one of its family wherever it stands.
pub fn select(wanted: &[NodePortAddresses], addresses: &[IpAddr], main: Option<IpAddr>) -> Vec<IpAddr> {
    let primary = |address: &IpAddr| {
        let family = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        let configured = main.filter(|main| family(&main) && addresses.contains(main));
        let first = addresses.iter().find(family).copied();
        configured.or(first) == Some(*address)
    };
    let named = |address: &IpAddr| {
        wanted.is_empty()
            || wanted.iter().any(|one| match one {
                NodePortAddresses::Primary => primary(address),
                NodePortAddresses::In(net) => net.contains(address),
            })
    };
    addresses
        .iter()
        .filter(|address| named(address))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<IpAddr> {
        ["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:1::1"]
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect()
    }

    fn chosen(wanted: &[&str], main: Option<&str>) -> Vec<String> {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|text| text.parse().expect("understood"))
            .collect();
        let main = main.map(|text| text.parse().expect("address"));
        select(&wanted, &all(), main)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn node_ports_are_served_where_the_configuration_says() {
        assert_eq!(chosen(&[], None).len(), 4, "nothing said = everywhere");
        assert_eq!(chosen(&["198.51.100.0/24"], None), ["198.51.100.1"]);
        assert_eq!(chosen(&["0.0.0.0/0"], None), ["192.0.2.1", "198.51.100.1"]);
        assert_eq!(chosen(&["primary"], None), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(chosen(&["10.0.0.0/8"], None), Vec::<String>::new());
    }

    #[test]
    fn the_configured_address_is_the_primary_one_if_the_node_has_it() {
        assert_eq!(
            chosen(&["primary"], Some("198.51.100.1")),
            ["198.51.100.1", "2001:db8::1"]
        );
        assert_eq!(
            chosen(&["primary"], Some("10.9.9.9")),
            ["192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(
            chosen(&["primary", "192.0.2.0/24"], Some("198.51.100.1")),
            ["192.0.2.1", "198.51.100.1", "2001:db8::1"]
        );
    }
}
