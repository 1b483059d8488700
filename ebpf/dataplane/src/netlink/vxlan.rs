//! The device of the tunnel, and addresses.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
};

use super::{Netlink, link::is_missing};
use crate::error::{Error, Result};

impl Netlink {
    /// Make a VXLAN device that is told with each packet where to send it. One of that name that listens at another port, or is of
    /// another kind, is made anew.
    pub fn ensure_vxlan(&mut self, name: &str, port: u16, mtu: u32, mac: [u8; 6]) -> Result<()> {
        match self.is_vxlan(name, port)? {
            Some(true) => return Ok(()),
            Some(false) => self.delete(name)?,
            None => {}
        }
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Port(port),
                    InfoVxlan::Learning(false),
                ])),
            ]),
        ];
        match self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(Error::system(
                "making the tunnel's device",
                format!("{name} (VXLAN, UDP port {port})"),
                error,
            )),
            _ => Ok(()),
        }
    }

    /// Whether the device of that name is such a one; `None` = there is no device of that name.
    fn is_vxlan(&mut self, name: &str, port: u16) -> Result<Option<bool>> {
        let links = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(Error::on("listing", "the devices"))?;
        let named = |link: &&LinkMessage| {
            let is_name = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(found) if found == name);
            link.attributes.iter().any(is_name)
        };
        let links = links.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links.clone().find(named).map(|link| {
            let info = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(info) => Some(info),
                _ => None,
            });
            let data = info.into_iter().flatten().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
                _ => None,
            });
            data.is_some_and(|data| {
                data.contains(&InfoVxlan::Port(port)) && data.contains(&InfoVxlan::CollectMetadata(true))
            })
        }))
    }

    /// Give a device an address of its own, without a network. That it has it is fine.
    pub fn put_address(&mut self, ifindex: u32, address: IpAddr) -> Result<()> {
        self.change(
            RouteNetlinkMessage::NewAddress(message(ifindex, address)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map_err(Error::on("giving the node the address", address.to_string()))
    }

    /// Take an address from a device; that it does not have it is fine.
    pub fn remove_address(&mut self, ifindex: u32, address: IpAddr) -> Result<()> {
        match self.change(RouteNetlinkMessage::DelAddress(message(ifindex, address)), 0) {
            Err(error) if !is_missing(&error) => Err(Error::system(
                "taking away the node's address",
                address.to_string(),
                error,
            )),
            _ => Ok(()),
        }
    }
}

fn message(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.scope = AddressScope::Universe;
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if address.is_ipv6() {
        // Nobody else can have it: no waiting until that is proved.
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}
