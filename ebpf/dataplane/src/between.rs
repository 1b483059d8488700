//! Pods of other nodes: the tunnel's device, the node's own addresses among the pods', routes.
//!
//! Who decides is the agent; the plugin alone leaves all of this as it is. Nothing here needs an agent alive.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_abi::{GATEWAY_V4, GATEWAY_V6, PREFIX_OF_NODE, PREFIX_PEER_PODS, Prefix, TUNNEL_MAC};

use crate::{
    error::{Error, Result},
    host,
    netlink::{
        Netlink,
        link::Device,
        route::{PEER_METRIC, Route},
    },
    node::KEELSON0,
    sysctl,
};

/// The device of the tunnel.
pub const KEELSON_VX: &str = "keelson-vx";

/// How pods of other nodes are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Their networks.
    pub networks: Vec<PeerPods>,
    /// The tunnel; none = there is to be none.
    pub tunnel: Option<Tunnel>,
}

/// A network of pods of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPods {
    /// Their addresses.
    pub pods: IpNet,
    /// Their node's address, where the tunnel's packets for them go and come from.
    pub endpoint: Option<IpAddr>,
    /// How they are reached.
    pub way: Way,
}

/// How a network of pods is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By their node, which is on the network of this device.
    Direct {
        /// Next hop.
        gateway: IpAddr,
        /// Device.
        ifindex: u32,
    },
    /// In the tunnel.
    Tunnel,
    /// As somebody else's routes say.
    Foreign,
}

/// The tunnel: VXLAN on one device for all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Number of its network.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// MTU of what is inside.
    pub mtu: u32,
    /// The node's own addresses among the pods'.
    pub addresses: Vec<IpAddr>,
}

/// Make device and addresses so; routes come after the programs.
pub fn ensure_devices(netlink: &mut Netlink, between: &Between) -> Result<()> {
    let devices = netlink.devices()?;
    let addresses = between
        .tunnel
        .as_ref()
        .map_or(&[][..], |tunnel| &tunnel.addresses);
    set_addresses(netlink, &devices, addresses)?;
    let Some(tunnel) = &between.tunnel else {
        return netlink.delete(KEELSON_VX);
    };
    netlink.ensure_vxlan(KEELSON_VX, tunnel.port, tunnel.mtu, TUNNEL_MAC)?;
    let devices = netlink.devices()?;
    let device = find(&devices, KEELSON_VX)?;
    let six = addresses.iter().any(IpAddr::is_ipv6);
    host::quiet(KEELSON_VX, six)?;
    if !device.up || device.mtu != tunnel.mtu {
        netlink.set_up(device.index, tunnel.mtu)?;
    }
    // What does not fit a pod's link is handed to the stack, which answers.
    sysctl::set_device("ipv4", KEELSON_VX, "forwarding", "1")?;
    if six {
        host::forward_v6(KEELSON_VX)?;
    }
    for v6 in [false, true].into_iter().filter(|v6| !v6 || six) {
        netlink.put_neighbour(device.index, gateway(v6), TUNNEL_MAC)?;
    }
    Ok(())
}

/// Make the node's own addresses among the pods' exactly these.
fn set_addresses(netlink: &mut Netlink, devices: &[Device], wanted: &[IpAddr]) -> Result<()> {
    let zero = find(devices, KEELSON0)?;
    for address in wanted {
        if !zero.addresses.iter().any(|net| net.addr() == *address) {
            netlink.put_address(zero.index, *address)?;
        }
    }
    let stale = zero.addresses.iter().filter(|net| !wanted.contains(&net.addr()));
    stale
        .into_iter()
        .try_for_each(|net| netlink.remove_address(zero.index, net.addr()))
}

/// Make the routes to pods of other nodes exactly those wanted: new ones first, so that a network that moves is never without.
pub fn set_routes(netlink: &mut Netlink, between: &Between) -> Result<()> {
    let devices = netlink.devices()?;
    let tunnel = between.tunnel.as_ref();
    let device = tunnel.map(|_| find(&devices, KEELSON_VX)).transpose()?;
    let route = |network: &PeerPods| {
        let v6 = network.pods.addr().is_ipv6();
        let (ifindex, gateway, source, mtu) = match network.way {
            Way::Direct { gateway, ifindex } => (ifindex, gateway, None, None),
            Way::Tunnel => {
                let own = tunnel?.addresses.iter().find(|own| own.is_ipv6() == v6).copied();
                (device?.index, gateway(v6), own, Some(tunnel?.mtu))
            }
            Way::Foreign => return None,
        };
        Some(Route {
            destination: network.pods,
            ifindex,
            gateway: Some(gateway),
            source,
            mtu,
            metric: Some(PEER_METRIC),
        })
    };
    let wanted: Vec<Route> = between.networks.iter().filter_map(route).collect();
    let present = netlink.peer_routes()?;
    for route in wanted.iter().filter(|route| !present.contains(route)) {
        netlink.put_route(route)?;
    }
    let is_stale = |route: &&Route| {
        !wanted
            .iter()
            .any(|wanted| wanted.destination == route.destination)
    };
    present
        .iter()
        .filter(is_stale)
        .try_for_each(|route| netlink.remove_route(route))
}

/// Take all of it away.
pub fn remove(netlink: &mut Netlink) -> Result<()> {
    for route in netlink.peer_routes()? {
        netlink.remove_route(&route)?;
    }
    netlink.delete(KEELSON_VX)
}

/// What the programs know of these networks.
pub fn prefixes(between: &Between) -> impl Iterator<Item = (IpNet, Prefix)> {
    between.networks.iter().map(|network| {
        let prefix = Prefix {
            flags: PREFIX_OF_NODE,
            node: network.endpoint.map(Into::into).unwrap_or_default(),
            ..Prefix::of(PREFIX_PEER_PODS)
        };
        (network.pods.trunc(), prefix)
    })
}

fn gateway(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from(GATEWAY_V6)
    } else {
        IpAddr::from(GATEWAY_V4)
    }
}

fn find<'a>(devices: &'a [Device], name: &str) -> Result<&'a Device> {
    let missing = || Error::system("finding the device", name, std::io::ErrorKind::NotFound.into());
    devices
        .iter()
        .find(|device| device.name == name)
        .ok_or_else(missing)
}
