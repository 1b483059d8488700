//! Devices and their addresses.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};

use super::Netlink;
use crate::error::{Error, Result};

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alias: pod links carry their owner's key there.
    pub alias: Option<String>,
    /// Set up.
    pub up: bool,
    /// MAC; empty where the device has none.
    pub mac: Vec<u8>,
    /// Has an Ethernet header.
    pub ethernet: bool,
    /// MTU.
    pub mtu: u32,
    /// Addresses of global scope.
    pub addresses: Vec<IpNet>,
}

/// One end of a veth pair within the node's namespace.
pub struct End<'a> {
    /// Name.
    pub name: &'a str,
    /// MAC.
    pub mac: [u8; 6],
}

impl Netlink {
    /// Every device with its global addresses.
    pub fn devices(&mut self) -> Result<Vec<Device>> {
        let links = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(Error::on("listing", "the devices"))?;
        let addresses = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(Error::on("listing", "the addresses"))?;
        let mut devices: Vec<Device> = links
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(read(link)),
                _ => None,
            })
            .collect();
        for message in &addresses {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && let Some(net) = global(address)
                && let Some(device) = devices
                    .iter_mut()
                    .find(|device| device.index == address.header.index)
            {
                device.addresses.push(net);
            }
        }
        Ok(devices)
    }

    /// Make a veth pair in this namespace. That it is there already is fine. Both ends are down: the kernel refuses to
    /// create one up, because it has no peer yet at that moment.
    pub fn ensure_veth(&mut self, one: &End<'_>, other: &End<'_>, mtu: u32) -> Result<()> {
        let end = |end: &End<'_>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(end.name.to_owned()),
                LinkAttribute::Address(end.mac.to_vec()),
                LinkAttribute::Mtu(mtu),
            ];
            message
        };
        let mut link = end(one);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(other)))),
        ]));
        match self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(Error::system(
                "making the veth pair",
                format!("{}/{}", one.name, other.name),
                error,
            )),
            _ => Ok(()),
        }
    }

    /// Set a device up and its MTU.
    pub fn set_up(&mut self, index: u32, mtu: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(Error::on("setting up", format!("device {index}")))
    }

    /// Delete a device by name; that there is none is fine.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                Err(Error::system("deleting the device", name, error))
            }
            _ => Ok(()),
        }
    }
}

fn read(link: &LinkMessage) -> Device {
    let mut device = Device {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        ..Device::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => device.alias = Some(alias.clone()),
            LinkAttribute::Address(mac) => device.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            _ => {}
        }
    }
    device
}

/// An address that others may know; IPv6 has no IFA_LOCAL, a point-to-point IPv4 address has both.
fn global(message: &AddressMessage) -> Option<IpNet> {
    if message.header.scope != AddressScope::Universe {
        return None;
    }
    let of = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let address: IpAddr = of(true).or_else(|| of(false))?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// Whether an error says that the thing asked for is not there.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
    )
}
