//! What the node is to the programs: its uplinks, its address, its prefixes. Pure: devices in, values out.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use keelson_abi::{
    Addr, NODE_MASQUERADE_ALL, NODE_SNAT_PODS, NodeConfig, PREFIX_LOCAL_PODS, PREFIX_NODE_ADDRESS,
    PREFIX_PEER_PODS, PREFIX_SERVICES, Prefix, SNAT_PORTS,
};

use crate::{
    between::{self, Between, KEELSON_VX},
    netlink::link::Device,
};

/// The pair by which the host's own processes reach Services.
pub const KEELSON0: &str = "keelson0";
/// Its other end.
pub const KEELSON1: &str = "keelson1";
/// Fixed, so that no daemon that hands out MACs changes them.
pub const KEELSON0_MAC: [u8; 6] = [0x0a, 0x6b, 0x65, 0x6c, 0, 0];
/// MAC of [`KEELSON1`].
pub const KEELSON1_MAC: [u8; 6] = [0x0a, 0x6b, 0x65, 0x6c, 0, 1];

/// How the node is configured: by the agent, or by the plugin's conflist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Addresses of this node's pods, of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of the pods of all nodes: what comes from there is of the cluster, and what goes there keeps its source.
    pub cluster_cidrs: Vec<IpNet>,
    /// First and last NodePort.
    pub node_port_range: (u16, u16),
    /// Translate the source of pods that leave for outside.
    pub snat_pods: bool,
    /// First and last port of translated sources.
    pub snat_ports: (u16, u16),
    /// Masquerade everything that asks a Service.
    pub masquerade_all: bool,
    /// Devices that are never an uplink.
    pub excluded_interfaces: Vec<String>,
    /// MTU of pod links; 0 = that of the device with the default route.
    pub mtu: u32,
    /// The node's address, where it is not that of the default route.
    pub node_address: Option<IpAddr>,
    /// Another service proxy may be at work: where no program has run yet, an upgrade leaves the devices alone until its
    /// connections are taken over.
    pub take_over: bool,
    /// How pods of other nodes are reached; `None` = somebody else knows, and what is there stays.
    pub between: Option<Between>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_cidrs: Vec::new(),
            node_port_range: (30_000, 32_767),
            snat_pods: true,
            snat_ports: SNAT_PORTS,
            masquerade_all: false,
            excluded_interfaces: Vec::new(),
            mtu: 0,
            node_address: None,
            take_over: false,
            between: None,
        }
    }
}

/// A device that leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// MTU.
    pub mtu: u32,
    /// A default route leaves by it.
    pub default_route: bool,
    /// Has an Ethernet header; only then do the programs run there.
    pub ethernet: bool,
    /// Its global addresses.
    pub addresses: Vec<IpNet>,
}

/// The uplinks among all devices: up, with a global address, not lo, not ours, not a pod's, not excluded. Those with a default
/// route come first.
pub fn uplinks(devices: &[Device], default_devices: &[u32], excluded: &[String]) -> Vec<Uplink> {
    let is_uplink = |device: &&Device| {
        let ours = device.name.starts_with("keelson") || device.alias.as_deref().is_some_and(is_pod_alias);
        device.up
            && !device.addresses.is_empty()
            && device.name != "lo"
            && !ours
            && !excluded.contains(&device.name)
    };
    let mut found: Vec<Uplink> = devices
        .iter()
        .filter(is_uplink)
        .map(|device| Uplink {
            name: device.name.clone(),
            ifindex: device.index,
            mtu: device.mtu,
            default_route: default_devices.contains(&device.index),
            ethernet: device.ethernet,
            addresses: device.addresses.clone(),
        })
        .collect();
    found.sort_by_key(|uplink| {
        (
            default_devices
                .iter()
                .position(|index| *index == uplink.ifindex)
                .unwrap_or(usize::MAX),
            uplink.ifindex,
        )
    });
    found
}

/// Pod links carry `keelson:<network>/<container>/<interface>` as their alias.
pub fn is_pod_alias(alias: &str) -> bool {
    alias.starts_with("keelson:")
}

/// The node's address of one family: the configured one if an uplink holds it, else the first of the best uplink.
pub fn node_address(configured: Option<IpAddr>, uplinks: &[Uplink], v6: bool) -> Option<IpAddr> {
    let mut addresses = uplinks
        .iter()
        .flat_map(|uplink| &uplink.addresses)
        .map(IpNet::addr)
        .filter(|address| address.is_ipv6() == v6);
    let wanted = addresses.clone().find(|address| Some(*address) == configured);
    wanted.or_else(|| addresses.next())
}

/// The `prefix` map of this node.
pub fn prefixes(settings: &NodeSettings, uplinks: &[Uplink], devices: &[Device]) -> Vec<(IpNet, Prefix)> {
    let of = |nets: &[IpNet], kind: u32| {
        let prefix = |net: &IpNet| (net.trunc(), Prefix::of(kind));
        nets.iter().map(prefix).collect::<Vec<_>>()
    };
    // One network is of one kind: this node's own pods before those of all nodes.
    let mut all: BTreeMap<IpNet, Prefix> = of(&settings.cluster_cidrs, PREFIX_PEER_PODS)
        .into_iter()
        .collect();
    all.extend(settings.between.iter().flat_map(between::prefixes));
    all.extend(of(&settings.pod_cidrs, PREFIX_LOCAL_PODS));
    all.extend(of(&settings.service_cidrs, PREFIX_SERVICES));
    let addresses = uplinks.iter().flat_map(|uplink| &uplink.addresses);
    // Those among the pods' are on the pair.
    let addresses = addresses.chain(tunnel_addresses(devices));
    all.extend(addresses.map(|net| (IpNet::from(net.addr()), Prefix::of(PREFIX_NODE_ADDRESS))));
    all.into_iter().collect()
}

/// The node's own addresses among the pods'.
fn tunnel_addresses(devices: &[Device]) -> &[IpNet] {
    let zero = devices.iter().find(|device| device.name == KEELSON0);
    zero.map_or(&[], |device| &device.addresses)
}

/// MTU of pod links and of the node's own pair.
pub fn pod_mtu(settings: &NodeSettings, uplinks: &[Uplink]) -> u32 {
    match settings.mtu {
        0 => uplinks.first().map_or(1500, |uplink| uplink.mtu),
        mtu => mtu,
    }
}

/// The value of the `node` map; `previous` keeps what is random or counted.
pub fn config(
    settings: &NodeSettings,
    uplinks: &[Uplink],
    devices: &[Device],
    previous: &NodeConfig,
) -> NodeConfig {
    let index = |name| {
        devices
            .iter()
            .find(|device| device.name == name)
            .map_or(0, |device| device.index)
    };
    let address = |v6| {
        let found = node_address(settings.node_address, uplinks, v6);
        found.map(Addr::from).unwrap_or_default()
    };
    let (nodeport_min, nodeport_max) = settings.node_port_range;
    let tunnel = index(KEELSON_VX);
    let among_pods = |v6| {
        let mut all = tunnel_addresses(devices).iter().map(IpNet::addr);
        let found = all.find(|address| tunnel != 0 && address.is_ipv6() == v6);
        found.map(Addr::from).unwrap_or_default()
    };
    let wanted = settings.between.as_ref().map(|between| between.tunnel.as_ref());
    let (tunnel_vni, tunnel_port_be) = match wanted {
        Some(Some(tunnel)) => (tunnel.vni, tunnel.port.to_be()),
        Some(None) => (0, 0),
        None => (previous.tunnel_vni, previous.tunnel_port_be),
    };
    let flags = [
        (settings.snat_pods, NODE_SNAT_PODS),
        (settings.masquerade_all, NODE_MASQUERADE_ALL),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, flag)| flags | flag);
    NodeConfig {
        ipv4: address(false),
        ipv6: address(true),
        keelson0_ifindex: index(KEELSON0),
        keelson1_ifindex: index(KEELSON1),
        keelson0_mac: KEELSON0_MAC,
        keelson1_mac: KEELSON1_MAC,
        snat_port_min: settings.snat_ports.0,
        snat_port_max: settings.snat_ports.1,
        flags,
        nodeport_min,
        nodeport_max,
        tunnel_ifindex: tunnel,
        tunnel_vni,
        tunnel_port_be,
        tunnel_ipv4: among_pods(false),
        tunnel_ipv6: among_pods(true),
        ..*previous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, address: &str) -> Device {
        let addresses = (!address.is_empty())
            .then(|| address.parse().expect("address"))
            .into_iter()
            .collect();
        Device {
            index,
            name: name.into(),
            up: true,
            mtu: 1400,
            ethernet: true,
            addresses,
            ..Device::default()
        }
    }

    #[test]
    fn an_uplink_is_up_has_a_global_address_and_is_nobodys_pod_link() {
        let mut pod = device(5, "kl1234", "10.244.0.5/32");
        pod.alias = Some("keelson:net/c/eth0".into());
        let mut down = device(6, "eth1", "10.3.0.1/24");
        down.up = false;
        let devices = [
            device(1, "lo", "127.0.0.1/8"),
            device(2, "eth0", "10.1.0.1/24"),
            device(3, KEELSON0, "169.254.9.9/32"),
            device(4, "bare", ""),
            pod,
            down,
            device(7, "mgmt", "10.4.0.1/24"),
        ];
        let found = uplinks(&devices, &[], &["mgmt".into()]);
        assert_eq!(
            found
                .iter()
                .map(|uplink| uplink.name.as_str())
                .collect::<Vec<_>>(),
            ["eth0"]
        );
    }

    #[test]
    fn the_uplink_with_the_best_default_route_gives_address_and_mtu() {
        let mut second = device(3, "eth1", "10.2.0.1/24");
        second.mtu = 9000;
        let found = uplinks(&[device(2, "eth0", "10.1.0.1/24"), second], &[3, 2], &[]);
        assert_eq!(
            node_address(None, &found, false),
            Some(IpAddr::from([10, 2, 0, 1]))
        );
        assert_eq!(pod_mtu(&NodeSettings::default(), &found), 9000);
        let configured = Some(IpAddr::from([10, 1, 0, 1]));
        assert_eq!(
            node_address(configured, &found, false),
            Some(IpAddr::from([10, 1, 0, 1]))
        );
        // An address that no device holds cannot be answered from.
        assert_eq!(
            node_address(Some(IpAddr::from([10, 9, 0, 1])), &found, false),
            Some(IpAddr::from([10, 2, 0, 1]))
        );
        assert_eq!(node_address(None, &[], false), None);
    }

    #[test]
    fn every_address_of_every_uplink_is_one_of_the_nodes() {
        let settings = NodeSettings {
            pod_cidrs: vec![
                "10.244.0.0/24".parse().expect("CIDR"),
                "fd00:1::/64".parse().expect("CIDR"),
            ],
            cluster_cidrs: vec![
                "10.244.0.0/16".parse().expect("CIDR"),
                "fd00:1::/64".parse().expect("CIDR"),
            ],
            ..NodeSettings::default()
        };
        let devices = [
            device(2, "eth0", "10.1.0.1/24"),
            device(3, KEELSON0, "10.244.0.1/32"),
        ];
        let found = prefixes(&settings, &uplinks(&devices, &[], &[]), &devices);
        for address in ["10.1.0.1/32", "10.244.0.1/32"] {
            let own = (address.parse().expect("CIDR"), Prefix::of(PREFIX_NODE_ADDRESS));
            assert!(found.contains(&own), "{address}: {found:?}");
        }
        for (net, kind) in [
            ("10.244.0.0/24", PREFIX_LOCAL_PODS),
            ("fd00:1::/64", PREFIX_LOCAL_PODS),
            ("10.244.0.0/16", PREFIX_PEER_PODS),
        ] {
            assert!(
                found.contains(&(net.parse().expect("CIDR"), Prefix::of(kind))),
                "{net}: {found:?}"
            );
        }
    }

    #[test]
    fn the_node_map_keeps_what_is_random_or_counted() {
        let previous = NodeConfig {
            dry_run_mark: 7,
            generation: 3,
            ..NodeConfig::default()
        };
        let found = config(
            &NodeSettings::default(),
            &[],
            &[device(9, KEELSON1, "")],
            &previous,
        );
        assert_eq!(
            (found.dry_run_mark, found.generation, found.keelson1_ifindex),
            (7, 3, 9)
        );
    }
}
