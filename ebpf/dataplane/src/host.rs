//! The node's own devices: the pair that carries the host's traffic to Services, and what the kernel must allow.
//!
//! Nothing here needs an agent alive: devices, routes, neighbours and settings stay.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use keelson_abi::{GATEWAY_V4, HOST_LOOP_V4};

use crate::{
    error::{Error, Result},
    netlink::{Netlink, link::End, route::Route},
    node::{self, KEELSON0, KEELSON0_MAC, KEELSON1, KEELSON1_MAC, NodeSettings, Uplink},
    sysctl,
};

/// Make the pair, its neighbours and its routes.
pub fn ensure_pair(netlink: &mut Netlink, settings: &NodeSettings, uplinks: &[Uplink]) -> Result<()> {
    let mtu = node::pod_mtu(settings, uplinks);
    let ends = (
        End {
            name: KEELSON0,
            mac: KEELSON0_MAC,
        },
        End {
            name: KEELSON1,
            mac: KEELSON1_MAC,
        },
    );
    netlink.ensure_veth(&ends.0, &ends.1, mtu)?;
    let devices = netlink.devices()?;
    let find = |name: &str| {
        let missing = || Error::system("finding the device", name, std::io::ErrorKind::NotFound.into());
        devices
            .iter()
            .find(|device| device.name == name)
            .ok_or_else(missing)
    };
    let (zero, one) = (find(KEELSON0)?, find(KEELSON1)?);
    for device in [zero, one] {
        // Nothing speaks IPv6 there; its announcements would only be noise for the programs.
        sysctl::set_device("ipv6", &device.name, "disable_ipv6", "1")?;
        if !device.up || device.mtu != mtu {
            netlink.set_up(device.index, mtu)?;
        }
    }
    let (gateway, host_loop) = (Ipv4Addr::from(GATEWAY_V4), Ipv4Addr::from(HOST_LOOP_V4));
    for address in [gateway, host_loop] {
        netlink.put_neighbour(zero.index, address, KEELSON1_MAC)?;
    }
    let source = node::node_address(settings.node_address, uplinks);
    let ifindex = zero.index;
    netlink.put_route(&Route {
        destination: Ipv4Net::from(host_loop),
        ifindex,
        gateway: None,
        source,
    })?;
    if let Some(destination) = settings.service_cidr {
        netlink.put_route(&Route {
            destination,
            ifindex,
            gateway: Some(gateway),
            source,
        })?;
    }
    Ok(())
}

/// What the kernel must allow on lo and on uplinks; nothing on `all`.
pub fn set_sysctls(settings: &NodeSettings, uplinks: &[Uplink]) -> Result<()> {
    for key in ["accept_local", "route_localnet", "forwarding"] {
        sysctl::set_device("ipv4", "lo", key, "1")?;
    }
    for uplink in uplinks {
        sysctl::set_device("ipv4", &uplink.name, "forwarding", "1")?;
    }
    sysctl::reserve_ports(&[settings.snat_ports, settings.node_port_range])
}

/// Take the pair away.
pub fn remove_pair(netlink: &mut Netlink) -> Result<()> {
    netlink.delete(KEELSON0)
}
