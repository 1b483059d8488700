//! Door: the node that the plugin runs on. Its namespace, its clock, its boot.

use std::{fs, net::Ipv4Addr, path::Path};

use crate::{
    error::{Code, Error, Result},
    ipam::Stamp,
    key,
    netlink::Netlink,
    store::{Evidence, Store},
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Boot and namespace: what the store's contents are valid for.
pub fn stamp(node: &Netlink) -> Result<Stamp> {
    let path = Path::new(BOOT_ID);
    let text = fs::read_to_string(path).map_err(|e| Error::file("read", path, &e))?;
    let boot = parse_boot_id(&text).ok_or_else(|| {
        Error::new(
            Code::Io,
            format!("{BOOT_ID} holds {text:?}, which is not a boot id"),
        )
    })?;
    Ok(Stamp {
        boot,
        netns: node.cookie()?,
    })
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let value = u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == 32)?;
    Some(value.to_be_bytes())
}

/// Opens a network's store for this boot and this namespace.
pub fn open_store(run: &Path, network: &str, node: &Netlink) -> Result<Store> {
    Store::open(run, network, stamp(node)?, evidence())
}

/// Which attachment has which address, as links and routes show it. Best effort: it is the last resort of a repair,
/// and what it cannot tell is told by GC.
#[must_use]
pub fn evidence() -> Evidence {
    Box::new(|| observe().unwrap_or_default())
}

fn observe() -> Result<Vec<(u64, Ipv4Addr)>> {
    let mut node = Netlink::open("the node")?;
    let links = node.links()?;
    let routes = node
        .routes()?
        .into_iter()
        .filter(|route| route.ours && route.destination.1 == 32);
    let owner = |index| {
        links
            .iter()
            .find(|l| l.index == index)
            .and_then(|l| key::hash_of_host_ifname(&l.name))
    };
    Ok(routes
        .filter_map(|route| Some((owner(route.device)?, route.destination.0)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes() {
        let id = parse_boot_id("00010203-0405-0607-0809-0a0b0c0d0e0f\n");
        assert_eq!(id, Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
        for wrong in ["", "0001", "zz010203-0405-0607-0809-0a0b0c0d0e0f"] {
            assert_eq!(parse_boot_id(wrong), None);
        }
    }
}
