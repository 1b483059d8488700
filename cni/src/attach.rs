//! Makes and unmakes the link between a pod and the node. What to make is a value ([`Wiring`]); the order is that of
//! no return: nothing can send before everything it needs is there, and what failed half-way is taken back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use keelson_abi::{Addr, Endpoint, GATEWAY_V4};

use crate::{
    datapath::Datapath,
    error::{Code, Error, Result},
    key::{self, Key},
    mac::Mac,
    netlink::{Netlink, Request, link::Link, message},
    netns::Namespace,
    store::Record,
};

/// What every pod sends to.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(GATEWAY_V4[0], GATEWAY_V4[1], GATEWAY_V4[2], GATEWAY_V4[3]);

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wiring {
    /// Whose.
    pub key: Key,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// See [`Record`].
    pub epoch: u32,
    /// MAC of the pod's end.
    pub pod_mac: Mac,
    /// MAC of the host's end.
    pub host_mac: Mac,
    /// Of both ends.
    pub mtu: u32,
    /// SO_NETNS_COOKIE of the pod's namespace.
    pub netns_cookie: u64,
}

impl Wiring {
    /// What a record says. Fails on one without an address, which is never written.
    pub fn of(record: &Record) -> Result<Self> {
        let address = record
            .ipv4()
            .ok_or_else(|| Error::new(Code::Io, format!("the record of {} names no address", record.key)))?;
        Ok(Self {
            key: record.key.clone(),
            address,
            epoch: record.epoch,
            pod_mac: record.pod_mac,
            host_mac: record.host_mac,
            mtu: record.mtu,
            netns_cookie: record.netns_cookie,
        })
    }

    /// The entry by which the programs find the pod.
    #[must_use]
    pub fn endpoint(&self, host: &Link) -> Endpoint {
        Endpoint {
            ifindex: host.index,
            netns_cookie: self.netns_cookie,
            epoch: self.epoch,
            netnsid: host.peer_netnsid.unwrap_or(-1),
            pod_mac: self.pod_mac.0,
            host_mac: self.host_mac.0,
            ..Endpoint::default()
        }
    }

    /// What the pod's own end needs, in one batch.
    fn pod_side(&self, index: u32) -> Vec<Request> {
        vec![
            message::add_address(index, self.address),
            message::set_up(index, true),
            message::add_host_route(index, GATEWAY),
            message::add_default_route(index, GATEWAY),
            message::add_neighbour(index, GATEWAY, self.host_mac),
        ]
    }

    /// What the host's end needs once the programs are bound, in one batch.
    fn host_side(&self, index: u32) -> Vec<Request> {
        vec![
            message::set_up(index, true),
            message::add_neighbour(index, self.address, self.pod_mac),
            message::add_host_route(index, self.address),
        ]
    }
}

/// Why a link was not made.
pub enum Failure {
    /// A link of that name is there already, on the host or in the pod. Nothing was changed.
    Exists,
    /// Anything else; what had been made is gone again.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Makes the link and says what the host's end is.
pub fn attach(
    wiring: &Wiring,
    node: &mut Netlink,
    netns: &Namespace,
    pod: &mut Netlink,
    datapath: &dyn Datapath,
) -> Result<Link, Failure> {
    let host = create(wiring, node, netns)?;
    match connect(wiring, &host, node, pod, datapath) {
        Ok(()) => Ok(host),
        Err(error) => {
            let undone = detach(&wiring.key, &[IpAddr::V4(wiring.address)], node, Some(datapath));
            Err(Failure::Failed(match undone {
                Ok(_) => error,
                Err(also) => error.details(format!("and could not take back what was made: {also}")),
            }))
        }
    }
}

fn create(wiring: &Wiring, node: &mut Netlink, netns: &Namespace) -> Result<Link, Failure> {
    let host = wiring.key.host_ifname();
    let requests = vec![
        message::create(&message::Veth {
            host: &host,
            pod: &wiring.key.ifname,
            netns: netns.fd(),
            host_mac: wiring.host_mac,
            pod_mac: wiring.pod_mac,
            mtu: wiring.mtu,
        }),
        message::own(&host, &wiring.key.alias(), has_ipv6()),
        message::get_link(&host),
    ];
    let mut replies = node.batch(requests)?.into_iter();
    match replies.next() {
        Some(Err(e)) if e.raw_os_error() == Some(libc::EEXIST) => return Err(Failure::Exists),
        Some(Err(e)) => return Err(node.failed("create the pod's link", &e).into()),
        _ => {}
    }
    let owned = replies.next().unwrap_or_else(|| Ok(Vec::new()));
    let found = replies.next().unwrap_or_else(|| Ok(Vec::new()));
    let link = found.map(|messages| Link::first(&messages));
    match (owned, link) {
        (Ok(_), Ok(Some(link))) if link.peer.is_some() => Ok(link),
        (Err(e), _) | (_, Err(e)) => {
            let error = node.failed("set up the pod's link", &e);
            detach(&wiring.key, &[], node, None)?;
            Err(error.into())
        }
        _ => {
            detach(&wiring.key, &[], node, None)?;
            Err(Error::new(Code::Io, format!("the link {host} was created, and has no peer")).into())
        }
    }
}

fn connect(
    wiring: &Wiring,
    host: &Link,
    node: &mut Netlink,
    pod: &mut Netlink,
    datapath: &dyn Datapath,
) -> Result<()> {
    pod.all(wiring.pod_side(host.peer.unwrap_or_default()))?;
    datapath.put_endpoint(Addr::from(IpAddr::V4(wiring.address)), wiring.endpoint(host))?;
    let (ingress, egress) = datapath.blocks();
    node.all(vec![message::bind_blocks(host.index, ingress, egress)])?;
    // The blocks live as long as a link is bound: with the first one the programs have to be put on them.
    datapath.ensure_programs()?;
    node.all(wiring.host_side(host.index))?;
    Ok(())
}

/// Takes the attachment apart: first its traffic, then its link. What is not there is not missed. Says whether there
/// was a link. `addresses` are those on record; the link's own routes tell the rest.
pub fn detach(
    key: &Key,
    addresses: &[IpAddr],
    node: &mut Netlink,
    datapath: Option<&dyn Datapath>,
) -> Result<bool> {
    detach_hash(key.hash(), addresses, node, datapath)
}

/// The same, where only the key's hash is known.
pub fn detach_hash(
    hash: u64,
    addresses: &[IpAddr],
    node: &mut Netlink,
    datapath: Option<&dyn Datapath>,
) -> Result<bool> {
    let owner = Mac::of_host(hash);
    let Some(link) = node.link(&key::host_ifname(hash))? else {
        remove_endpoints(addresses, owner, datapath)?;
        return Ok(false);
    };
    let mut addresses = addresses.to_vec();
    if addresses.is_empty() {
        let routes = node
            .routes()?
            .into_iter()
            .filter(|r| r.ours && r.device == link.index);
        addresses.extend(routes.map(|r| IpAddr::V4(r.destination.0)));
    }
    remove_endpoints(&addresses, owner, datapath)?;
    delete_link(node, &link)?;
    Ok(true)
}

/// Sets a link down, so that its traffic and its routes end at once, and deletes it.
pub fn delete_link(node: &mut Netlink, link: &Link) -> Result<()> {
    let gone = |e: &io::Error| e.raw_os_error() == Some(libc::ENODEV);
    for reply in node.batch(vec![
        message::set_up(link.index, false),
        message::delete_link(link.index),
    ])? {
        match reply {
            Err(e) if !gone(&e) => return Err(node.failed(&format!("delete the link {}", link.name), &e)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the entries that belong to this attachment. An address may have a new owner by now; the MAC tells.
fn remove_endpoints(addresses: &[IpAddr], owner: Mac, datapath: Option<&dyn Datapath>) -> Result<()> {
    let Some(datapath) = datapath else { return Ok(()) };
    for address in addresses.iter().map(|ip| Addr::from(*ip)) {
        if datapath
            .endpoint(address)?
            .is_some_and(|entry| entry.host_mac == owner.0)
        {
            datapath.remove_endpoint(address)?;
        }
    }
    Ok(())
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}
