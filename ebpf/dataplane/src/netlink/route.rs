//! Routes and neighbours of the node's own pair of devices.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{Netlink, link::is_missing};
use crate::error::{Error, Result};

/// Protocol number of every route of ours: how they are told from others'.
pub const PROTOCOL: u8 = 107;

/// A route by the node's own pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Device.
    pub ifindex: u32,
    /// Next hop, taken to be on the link; `None` = the destination itself is.
    pub gateway: Option<IpAddr>,
    /// Source address for the host's own packets.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Write a route, replacing one to the same destination.
    pub fn put_route(&mut self, route: &Route) -> Result<()> {
        self.change(
            RouteNetlinkMessage::NewRoute(message(route)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map_err(Error::on("routing", route.destination.to_string()))
    }

    /// Remove a route; that there is none is fine.
    pub fn remove_route(&mut self, route: &Route) -> Result<()> {
        match self.change(RouteNetlinkMessage::DelRoute(message(route)), 0) {
            Err(error) if !is_missing(&error) => Err(Error::system(
                "removing the route to",
                route.destination.to_string(),
                error,
            )),
            _ => Ok(()),
        }
    }

    /// Routes of ours to single addresses by a gateway on this device.
    pub fn host_routes(&mut self, ifindex: u32) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let routes = self
                .dump(RouteNetlinkMessage::GetRoute(filter))
                .map_err(Error::on("listing", "the routes"))?;
            found.extend(routes.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => host_route(route, ifindex),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Write a permanent neighbour.
    pub fn put_neighbour(&mut self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map_err(Error::on("writing down the neighbour", address.to_string()))
    }

    /// Devices that default routes leave by, best first.
    pub fn default_devices(&mut self) -> Result<Vec<u32>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = AddressFamily::Inet;
        let routes = self
            .dump(RouteNetlinkMessage::GetRoute(filter))
            .map_err(Error::on("listing", "the routes"))?;
        let mut found: Vec<(u32, u32)> = routes
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => default_route(route),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, ifindex)| ifindex).collect())
    }
}

/// Where to, if the route is one of ours to a single address by a gateway on the device.
fn host_route(route: &RouteMessage, ifindex: u32) -> Option<IpAddr> {
    let ours = route.header.protocol == RouteProtocol::Other(PROTOCOL);
    let by = |wanted: &dyn Fn(&RouteAttribute) -> bool| route.attributes.iter().any(wanted);
    let here = by(&|attribute| matches!(attribute, RouteAttribute::Oif(index) if *index == ifindex));
    let gateway = by(&|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
    if !(ours && here && gateway) {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let whole = if destination.is_ipv4() { 32 } else { 128 };
    (route.header.destination_prefix_length == whole).then_some(destination)
}

/// Metric and device of a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast || !main {
        return None;
    }
    let mut metric = 0;
    let mut device = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    Some((metric, device?))
}

fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes = vec![
        RouteAttribute::Destination(wire(route.destination.network())),
        RouteAttribute::Oif(route.ifindex),
    ];
    if let Some(gateway) = route.gateway {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(wire(gateway)));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(wire(source)));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn wire(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
