//! What addresses, routes and neighbours there are: for CHECK, for repairs, for the uplink's MTU.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
};

use super::{Netlink, ROUTE_PROTOCOL, link::Link, message};
use crate::{error::Result, mac::Mac};

/// One IPv4 route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Route {
    /// Destination.
    pub destination: (Ipv4Addr, u8),
    /// Next hop.
    pub gateway: Option<Ipv4Addr>,
    /// Device.
    pub device: u32,
    /// Made by this plugin.
    pub ours: bool,
}

impl Ipv4Route {
    fn read(message: &RouteMessage) -> Option<Self> {
        let mut route = Self {
            destination: (Ipv4Addr::UNSPECIFIED, message.header.destination_prefix_length),
            gateway: None,
            device: 0,
            ours: message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => route.destination.0 = *ip,
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => route.gateway = Some(*ip),
                RouteAttribute::Oif(index) => route.device = *index,
                RouteAttribute::Table(table) if *table != u32::from(RouteHeader::RT_TABLE_MAIN) => {
                    return None;
                }
                _ => {}
            }
        }
        Some(route)
    }
}

/// A device that somebody could reach the node by. Pod links have no addresses, so there are few of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressedLink {
    /// Index, name, MTU, whether it is up.
    pub link: (u32, String, u32, bool),
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

impl Netlink {
    /// Every device with an address but lo, in order of index.
    pub fn addressed_links(&mut self) -> Result<Vec<AddressedLink>> {
        let mut by_index: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        let messages = self.dump(
            "list the addresses",
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        )?;
        for message in &messages {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.scope == AddressScope::Universe
                && let Some(net) = network_of(message)
            {
                by_index.entry(message.header.index).or_default().push(net);
            }
        }
        by_index.remove(&1);
        let requests = by_index
            .keys()
            .map(|index| message::get_link_at(*index))
            .collect();
        let replies = self.batch(requests)?;
        // A device that went away between the two is not there.
        let links = replies
            .into_iter()
            .zip(by_index)
            .filter_map(|(reply, (_, mut addresses))| {
                let link = Link::first(&reply.ok()?)?;
                addresses.sort_unstable();
                Some(AddressedLink {
                    link: (link.index, link.name, link.mtu, link.up),
                    addresses,
                })
            });
        Ok(links.collect())
    }

    /// Addresses of one family of one link, as an answer to ADD names them.
    pub fn link_addresses(&mut self, index: u32, family: AddressFamily) -> Result<Vec<IpNet>> {
        let mut filter = AddressMessage::default();
        filter.header.family = family;
        filter.header.index = index;
        let messages = self.dump("list the addresses", RouteNetlinkMessage::GetAddress(filter))?;
        let mut found = Vec::new();
        for message in messages {
            if let RouteNetlinkMessage::NewAddress(message) = &message
                && message.header.index == index
            {
                found.extend(network_of(message));
            }
        }
        Ok(found)
    }

    /// IPv4 addresses of one link.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<(Ipv4Addr, u8)>> {
        let all = self.link_addresses(index, AddressFamily::Inet)?;
        Ok(all
            .into_iter()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some((net.addr(), net.prefix_len())),
                IpNet::V6(_) => None,
            })
            .collect())
    }

    /// IPv4 routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Ipv4Route>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = AddressFamily::Inet;
        filter.header.table = RouteHeader::RT_TABLE_MAIN;
        let messages = self.dump("list the routes", RouteNetlinkMessage::GetRoute(filter))?;
        let routes = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => Ipv4Route::read(route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// The route that packets to `address` take.
    pub fn route_to(&mut self, address: Ipv4Addr) -> Result<Option<Ipv4Route>> {
        match self.one(message::get_route(address))? {
            Ok(messages) => Ok(messages.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Ipv4Route::read(route),
                _ => None,
            })),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(None),
            Err(e) => Err(self.failed(&format!("look up the route to {address}"), &e)),
        }
    }

    /// The permanent neighbour's MAC address.
    pub fn permanent_neighbour(&mut self, index: u32, address: Ipv4Addr) -> Result<Option<Mac>> {
        match self.one(message::get_neighbour(index, address))? {
            Ok(messages) => Ok(messages.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => permanent(neighbour, address),
                _ => None,
            })),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.failed(&format!("look up the neighbour {address}"), &e)),
        }
    }

    /// The blocks a link is bound to.
    pub fn bound_blocks(&mut self, index: u32) -> Result<(Option<u32>, Option<u32>)> {
        match self.one(message::get_clsact(index))? {
            Ok(messages) => Ok(messages
                .iter()
                .find_map(|message| match message {
                    RouteNetlinkMessage::NewQueueDiscipline(tc) => Some(message::blocks(tc)),
                    _ => None,
                })
                .unwrap_or_default()),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok((None, None)),
            Err(e) => Err(self.failed("ask what the pod's link is bound to", &e)),
        }
    }

    /// Whether a program is on a block.
    pub fn block_has_program(&mut self, block: u32) -> Result<bool> {
        match self.dump(
            "list the programs on a tc block",
            message::list_filters(block).message,
        ) {
            Ok(messages) => Ok(messages.iter().any(|message| match message {
                RouteNetlinkMessage::NewTrafficFilter(tc) => message::is_program(tc),
                _ => false,
            })),
            // A block that nothing is bound to does not exist.
            Err(error) if error.msg.contains("os error 22") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// MTU of the device that has the default route.
    pub fn uplink_mtu(&mut self) -> Result<Option<u32>> {
        // An address that nobody has (TEST-NET-1), so that no more special route is found.
        let Some(route) = self.route_to(Ipv4Addr::new(192, 0, 2, 1))? else {
            return Ok(None);
        };
        match self.one(message::get_link_at(route.device))? {
            Ok(messages) => Ok(Link::first(&messages).map(|link| link.mtu)),
            Err(e) => Err(self.failed("find the uplink", &e)),
        }
    }
}

fn network_of(message: &AddressMessage) -> Option<IpNet> {
    // IPv6 addresses have no IFA_LOCAL; a point-to-point IPv4 address has both.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNet::new(local.or(any)?, message.header.prefix_len).ok()
}

fn permanent(message: &NeighbourMessage, address: Ipv4Addr) -> Option<Mac> {
    let this = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
    if message.header.state != NeighbourState::Permanent || !message.attributes.contains(&this) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_slice(bytes),
        _ => None,
    })
}
