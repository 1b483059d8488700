//! The requests this plugin makes. Pure: values in, messages out.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{ROUTE_PROTOCOL, Request};
use crate::mac::Mac;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const IFLA_AF_SPEC: u16 = 26;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;

/// Both ends of a pod's link.
pub struct Veth<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Name of the pod's end.
    pub pod: &'a str,
    /// The pod's namespace, by an open descriptor.
    pub netns: i32,
    /// MAC of the host's end.
    pub host_mac: Mac,
    /// MAC of the pod's end.
    pub pod_mac: Mac,
    /// Of both.
    pub mtu: u32,
}

/// Creates the pair. The pod's end is born in its namespace: moving it there would cost a grace period.
#[must_use]
pub fn create(veth: &Veth<'_>) -> Request {
    let end = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
        ]
    };
    let mut peer = LinkMessage::default();
    peer.attributes = end(veth.pod, veth.pod_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(veth.netns));
    let mut link = LinkMessage::default();
    link.attributes = end(veth.host, veth.host_mac);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Request::new(
        "create the pod's link",
        RouteNetlinkMessage::NewLink(link),
        CREATE,
    )
}

/// Says whose link it is, and lets it forward. No IPv6 link-local address: nothing speaks to it, and its
/// announcements would only be noise. (None of this is accepted at creation.)
#[must_use]
pub fn own(host: &str, alias: &str, ipv6: bool) -> Request {
    let mut link = by_name(host);
    link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    let forwarding = 1_u16;
    let ipv4 = nested(
        libc::AF_INET as u16,
        &nested(1, &attribute(forwarding, &1_u32.to_ne_bytes())),
    );
    let mut spec = ipv4;
    if ipv6 {
        let (addr_gen_mode, none) = (8, 1_u8);
        spec.extend(nested(libc::AF_INET6 as u16, &attribute(addr_gen_mode, &[none])));
    }
    link.attributes.push(LinkAttribute::Other(DefaultNla::new(
        IFLA_AF_SPEC | libc::NLA_F_NESTED as u16,
        spec,
    )));
    Request::new(
        "name the owner of the pod's link",
        RouteNetlinkMessage::SetLink(link),
        0,
    )
}

/// A link by name.
#[must_use]
pub fn get_link(name: &str) -> Request {
    let mut link = without_statistics();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request::new("find the link", RouteNetlinkMessage::GetLink(link), 0)
}

/// A link by index.
#[must_use]
pub fn get_link_at(index: u32) -> Request {
    let mut link = without_statistics();
    link.header.index = index;
    Request::new("find the link", RouteNetlinkMessage::GetLink(link), 0)
}

/// Sets a link up or down.
#[must_use]
pub fn set_up(index: u32, up: bool) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = LinkFlags::Up;
    link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    let what = if up {
        "set the link up"
    } else {
        "set the link down"
    };
    Request::new(what, RouteNetlinkMessage::SetLink(link), 0)
}

/// Deletes a link, and with it its peer.
#[must_use]
pub fn delete_link(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Request::new("delete the link", RouteNetlinkMessage::DelLink(link), 0)
}

/// Binds a link to the node's two shared blocks, and so to the programs on them.
#[must_use]
pub fn bind_blocks(index: u32, ingress: u32, egress: u32) -> Request {
    let mut tc = clsact(index);
    tc.header.handle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    tc.attributes = vec![
        TcAttribute::Kind("clsact".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_INGRESS_BLOCK, ingress.to_ne_bytes().to_vec())),
        TcAttribute::Other(DefaultNla::new(TCA_EGRESS_BLOCK, egress.to_ne_bytes().to_vec())),
    ];
    Request::new(
        "bind the pod's link to the kernel programs",
        RouteNetlinkMessage::NewQueueDiscipline(tc),
        CREATE,
    )
}

/// What a link is bound to.
#[must_use]
pub fn get_clsact(index: u32) -> Request {
    let what = "ask what the pod's link is bound to";
    Request::new(
        what,
        RouteNetlinkMessage::GetQueueDiscipline(clsact(index)),
        NLM_F_ECHO,
    )
}

/// The block numbers in an answer to [`get_clsact`].
#[must_use]
pub fn blocks(tc: &TcMessage) -> (Option<u32>, Option<u32>) {
    let block = |kind: u16| {
        tc.attributes.iter().find_map(|a| match a {
            TcAttribute::Other(nla) => {
                use netlink_packet_core::Nla;
                let mut value = vec![0; nla.value_len()];
                nla.emit_value(&mut value);
                (nla.kind() == kind)
                    .then(|| value.try_into().ok().map(u32::from_ne_bytes))
                    .flatten()
            }
            _ => None,
        })
    };
    (block(TCA_INGRESS_BLOCK), block(TCA_EGRESS_BLOCK))
}

/// The filters on a block.
#[must_use]
pub fn list_filters(block: u32) -> Request {
    // The block's number stands where a device's parent would, and the device is "none, a block".
    let mut tc = TcMessage::with_index(-1);
    tc.header.parent = block.into();
    Request::new(
        "list the programs on a tc block",
        RouteNetlinkMessage::GetTrafficFilter(tc),
        0,
    )
}

/// Whether a filter is a kernel program.
#[must_use]
pub fn is_program(tc: &TcMessage) -> bool {
    tc.attributes
        .iter()
        .any(|a| matches!(a, TcAttribute::Kind(kind) if kind == "bpf"))
}

fn clsact(index: u32) -> TcMessage {
    let mut tc = TcMessage::with_index(index as i32);
    tc.header.parent = TcHandle::CLSACT;
    tc
}

/// Gives a link a /32.
#[must_use]
pub fn add_address(index: u32, address: Ipv4Addr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    Request::new(
        "give the pod its address",
        RouteNetlinkMessage::NewAddress(message),
        CREATE,
    )
}

/// Routes one address to a link.
#[must_use]
pub fn add_host_route(index: u32, address: Ipv4Addr) -> Request {
    let route = route(index, Some((address, 32)), None);
    // A route of an earlier link with this address may be left over.
    Request::new(
        "route the address to the link",
        RouteNetlinkMessage::NewRoute(route),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Takes the route to an address away.
#[must_use]
pub fn delete_host_route(index: u32, address: Ipv4Addr) -> Request {
    let route = route(index, Some((address, 32)), None);
    Request::new(
        "remove the route to the pod",
        RouteNetlinkMessage::DelRoute(route),
        0,
    )
}

/// Everything else goes to the gateway.
#[must_use]
pub fn add_default_route(index: u32, gateway: Ipv4Addr) -> Request {
    let route = route(index, None, Some(gateway));
    Request::new(
        "give the pod its default route",
        RouteNetlinkMessage::NewRoute(route),
        CREATE,
    )
}

fn route(index: u32, destination: Option<(Ipv4Addr, u8)>, gateway: Option<Ipv4Addr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some((address, length)) = destination {
        message.header.destination_prefix_length = length;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    }
    if let Some(gateway) = gateway {
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    }
    message
}

/// Which route a packet to `address` takes.
#[must_use]
pub fn get_route(address: Ipv4Addr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.header.flags = RouteFlags::FibMatch;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    Request::new("look up the route", RouteNetlinkMessage::GetRoute(message), 0)
}

/// A neighbour that is never asked for and never forgotten.
#[must_use]
pub fn add_neighbour(index: u32, address: Ipv4Addr, mac: Mac) -> Request {
    let mut message = neighbour(index, address);
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let what = "write down the neighbour's MAC address";
    Request::new(
        what,
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// What is known of a neighbour.
#[must_use]
pub fn get_neighbour(index: u32, address: Ipv4Addr) -> Request {
    Request::new(
        "look up the neighbour",
        RouteNetlinkMessage::GetNeighbour(neighbour(index, address)),
        0,
    )
}

fn neighbour(index: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(address))];
    message
}

/// Half of what the kernel tells of a link is counters.
fn without_statistics() -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    link
}

fn by_name(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

/// One netlink attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | libc::NLA_F_NESTED as u16, value)
}
