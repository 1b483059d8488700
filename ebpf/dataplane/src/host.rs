//! The node's own devices: the pair that carries the host's traffic to Services, and what the kernel must allow.
//!
//! Nothing here needs an agent alive: devices, routes, neighbours and settings stay.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_abi::{GATEWAY_V4, GATEWAY_V6, HOST_LOOP_V4, HOST_LOOP_V6};

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
    let families = families(settings, uplinks);
    for device in [zero, one] {
        quiet(&device.name, families.contains(&true))?;
        if !device.up || device.mtu != mtu {
            netlink.set_up(device.index, mtu)?;
        }
    }
    for v6 in families {
        put_routes(netlink, settings, uplinks, zero.index, v6)?;
    }
    Ok(())
}

/// The families that Services are asked by: IPv4 always, IPv6 where the node or its Services have such addresses.
fn families(settings: &NodeSettings, uplinks: &[Uplink]) -> Vec<bool> {
    let tunnel = settings
        .between
        .as_ref()
        .and_then(|between| between.tunnel.as_ref());
    let addressed = node::node_address(None, uplinks, true).is_some()
        || settings.service_cidrs.iter().any(|net| net.addr().is_ipv6())
        || tunnel.is_some_and(|tunnel| tunnel.addresses.iter().any(IpAddr::is_ipv6));
    if addressed && sysctl::has_ipv6() {
        vec![false, true]
    } else {
        vec![false]
    }
}

/// A device of the pair says nothing of itself: announcements would only be noise for the programs.
pub fn quiet(device: &str, v6: bool) -> Result<()> {
    if !sysctl::has_ipv6() {
        return Ok(());
    }
    if !v6 {
        return sysctl::set_device("ipv6", device, "disable_ipv6", "1");
    }
    for (key, value) in [
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("router_solicitations", "0"),
        ("disable_ipv6", "0"),
    ] {
        sysctl::set_device("ipv6", device, key, value)?;
    }
    Ok(())
}

/// Neighbours and routes of one family by `keelson0`.
fn put_routes(
    netlink: &mut Netlink,
    settings: &NodeSettings,
    uplinks: &[Uplink],
    ifindex: u32,
    v6: bool,
) -> Result<()> {
    let (gateway, host_loop) = if v6 {
        (IpAddr::from(GATEWAY_V6), IpAddr::from(HOST_LOOP_V6))
    } else {
        (IpAddr::from(GATEWAY_V4), IpAddr::from(HOST_LOOP_V4))
    };
    for address in [gateway, host_loop] {
        netlink.put_neighbour(ifindex, address, KEELSON1_MAC)?;
    }
    let source = node::node_address(settings.node_address, uplinks, v6);
    netlink.put_route(&Route {
        source,
        ..Route::to(IpNet::from(host_loop), ifindex)
    })?;
    let services = settings
        .service_cidrs
        .iter()
        .filter(|net| net.addr().is_ipv6() == v6);
    for destination in services {
        netlink.put_route(&Route {
            gateway: Some(gateway),
            source,
            ..Route::to(*destination, ifindex)
        })?;
    }
    Ok(())
}

/// Make the host's routes to single addresses of Services exactly these: whatever network they are in, its processes then reach
/// them by the dataplane.
pub fn set_routes(
    netlink: &mut Netlink,
    addresses: &[IpAddr],
    source: impl Fn(bool) -> Option<IpAddr>,
) -> Result<()> {
    let devices = netlink.devices()?;
    let Some(zero) = devices.iter().find(|device| device.name == KEELSON0) else {
        return Err(Error::system(
            "finding the device",
            KEELSON0,
            std::io::ErrorKind::NotFound.into(),
        ));
    };
    let ifindex = zero.index;
    let route = |address: IpAddr| Route {
        gateway: Some(if address.is_ipv6() {
            IpAddr::from(GATEWAY_V6)
        } else {
            IpAddr::from(GATEWAY_V4)
        }),
        source: source(address.is_ipv6()),
        ..Route::to(IpNet::from(address), ifindex)
    };
    let present = netlink.host_routes(ifindex)?;
    for address in addresses.iter().filter(|address| !present.contains(address)) {
        netlink.put_route(&route(*address))?;
    }
    for address in present.into_iter().filter(|address| !addresses.contains(address)) {
        netlink.remove_route(&route(address))?;
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
    if families(settings, uplinks).contains(&true) {
        forward_v6("lo")?;
        for uplink in uplinks {
            forward_v6(&uplink.name)?;
        }
    }
    sysctl::reserve_ports(&[settings.snat_ports, settings.node_port_range])
}

/// Let a device forward IPv6. Its own route from a router's announcements stays: what forwards listens to them only with 2.
/// Kernels before 6.17 know no forwarding by device; there the programs redirect all the same, and what does not fit the
/// next link is lost unless the node forwards IPv6 altogether.
pub fn forward_v6(device: &str) -> Result<()> {
    if sysctl::device("ipv6", device, "accept_ra")?.as_deref() == Some("1") {
        sysctl::set_device("ipv6", device, "accept_ra", "2")?;
    }
    sysctl::set_device("ipv6", device, "forwarding", "1")?;
    if sysctl::device("ipv6", device, "force_forwarding")?.is_some() {
        sysctl::set_device("ipv6", device, "force_forwarding", "1")?;
    }
    Ok(())
}

/// Take the pair away.
pub fn remove_pair(netlink: &mut Netlink) -> Result<()> {
    netlink.delete(KEELSON0)
}
