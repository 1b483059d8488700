//! What a link says of itself.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};

use super::{Netlink, message};
use crate::{error::Result, mac::Mac};

/// A link, as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub alias: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Set up (not: has a carrier).
    pub up: bool,
    /// Index of its peer, in the peer's namespace.
    pub peer: Option<u32>,
    /// The peer's namespace, as numbered in the link's own.
    pub peer_netnsid: Option<i32>,
}

impl Link {
    /// From a message.
    #[must_use]
    pub fn read(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Address(bytes) => link.mac = Mac::from_slice(bytes).unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
                _ => {}
            }
        }
        link
    }

    /// The first link among messages.
    #[must_use]
    pub fn first(messages: &[RouteNetlinkMessage]) -> Option<Self> {
        messages.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Self::read(link)),
            _ => None,
        })
    }
}

impl Netlink {
    /// The link with this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        match self.one(message::get_link(name))? {
            Ok(messages) => Ok(Link::first(&messages)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(self.failed(&format!("find the link {name}"), &e)),
        }
    }

    /// Every link.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let messages = self.dump(
            "list the links",
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
        )?;
        let links = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::read(link)),
            _ => None,
        });
        Ok(links.collect())
    }
}
