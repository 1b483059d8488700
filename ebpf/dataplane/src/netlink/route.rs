//! Routes and neighbours: of the node's own devices, and to pods of other nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::{Netlink, link::is_missing};
use crate::error::{Error, Result};

/// Protocol number of every route of ours: how they are told from others'.
pub const PROTOCOL: u8 = 107;

/// Metric of routes to pods of other nodes: one that somebody else keeps to the same network is neither replaced nor overruled, and ours
/// are told from all the others by it.
pub const PEER_METRIC: u32 = 1070;

/// A route of ours.
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
    /// MTU, where it is less than the device's.
    pub mtu: Option<u32>,
    /// Metric; `None` = the kernel's own choice.
    pub metric: Option<u32>,
}

impl Route {
    /// To what is on the link itself.
    pub fn to(destination: IpNet, ifindex: u32) -> Self {
        Self {
            destination,
            ifindex,
            gateway: None,
            source: None,
            mtu: None,
            metric: None,
        }
    }
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

    /// The device by which the host would send to an address; `None` = it would not.
    pub fn device_to(&mut self, address: IpAddr) -> Option<u32> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message
            .attributes
            .push(RouteAttribute::Destination(match address {
                IpAddr::V4(address) => RouteAddress::Inet(address),
                IpAddr::V6(address) => RouteAddress::Inet6(address),
            }));
        let RouteNetlinkMessage::NewRoute(route) = self.ask(RouteNetlinkMessage::GetRoute(message)).ok()?
        else {
            return None;
        };
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(device) => Some(*device),
            _ => None,
        })
    }

    /// Routes of ours to single addresses by a gateway on this device.
    pub fn host_routes(&mut self, ifindex: u32) -> Result<Vec<IpAddr>> {
        let routes = self.own_routes()?;
        Ok(routes
            .iter()
            .filter_map(|route| host_route(route, ifindex))
            .collect())
    }

    /// Routes of ours to pods of other nodes.
    pub fn peer_routes(&mut self) -> Result<Vec<Route>> {
        let routes = self.own_routes()?.into_iter();
        Ok(routes.filter(|route| route.metric == Some(PEER_METRIC)).collect())
    }

    /// Every route of ours, of both families.
    fn own_routes(&mut self) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let routes = self
                .dump(RouteNetlinkMessage::GetRoute(filter))
                .map_err(Error::on("listing", "the routes"))?;
            found.extend(routes.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => own_route(route),
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

/// Where to, if the route is to a single address by a gateway on the device.
fn host_route(route: &Route, ifindex: u32) -> Option<IpAddr> {
    let destination = route.destination;
    let single = destination.prefix_len() == destination.max_prefix_len();
    (route.ifindex == ifindex && route.gateway.is_some() && single).then(|| destination.addr())
}

/// The route, if it is one of ours.
fn own_route(message: &RouteMessage) -> Option<Route> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let mut route = Route::to(IpNet::from(destination), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to)?,
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Gateway(by) => route.gateway = address(by),
            RouteAttribute::PrefSource(from) => route.source = address(from),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(route)
}

fn address(wire: &RouteAddress) -> Option<IpAddr> {
    match wire {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
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
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    if let Some(mtu) = route.mtu {
        let metrics = vec![RouteMetric::Mtu(mtu)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
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
