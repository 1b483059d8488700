//! The `prefix` map: networks as the programs see them, IPv4 as v4-mapped.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use aya::maps::{LpmTrie, Map, MapData, lpm_trie::Key};
use ipnet::IpNet;
use keelson_abi::{Addr, MAP_PREFIX, PREFIX_OF_NODE, Prefix};

use crate::{
    error::{Error, Result},
    maps,
    paths::Generation,
};

/// The map, opened.
pub struct PrefixMap(LpmTrie<MapData, [u8; 16], Prefix>);

impl PrefixMap {
    /// Open.
    pub fn open(generation: &Generation) -> Result<Self> {
        let data = maps::open(generation, MAP_PREFIX)?;
        LpmTrie::try_from(Map::LpmTrie(data))
            .map(Self)
            .map_err(failed("opening the map"))
    }

    /// Make the map hold exactly these; only the difference is written, new ones before old ones go.
    ///
    /// Pods of other nodes that are there already stay where `keeps_peers` says that somebody else knows of them.
    pub fn set(&mut self, wanted: &[(IpNet, Prefix)], keeps_peers: bool) -> Result<()> {
        let mut wanted: BTreeMap<(u32, [u8; 16]), Prefix> =
            wanted.iter().map(|(net, prefix)| (key(*net), *prefix)).collect();
        let present = self.list()?;
        if keeps_peers {
            for (key, prefix) in present
                .iter()
                .filter(|(_, prefix)| prefix.flags & PREFIX_OF_NODE != 0)
            {
                wanted.entry(*key).or_insert(*prefix);
            }
        }
        for ((length, data), prefix) in &wanted {
            if present.get(&(*length, *data)) != Some(prefix) {
                self.0
                    .insert(&Key::new(*length, *data), prefix, 0)
                    .map_err(failed("writing to the map"))?;
            }
        }
        for (length, data) in present.keys().filter(|key| !wanted.contains_key(*key)) {
            self.0
                .remove(&Key::new(*length, *data))
                .map_err(failed("removing from the map"))?;
        }
        Ok(())
    }

    /// Everything, by length and bytes.
    pub fn list(&self) -> Result<BTreeMap<(u32, [u8; 16]), Prefix>> {
        let read = |entry: std::result::Result<(Key<[u8; 16]>, Prefix), _>| {
            entry
                .map(|(key, value)| ((key.prefix_len(), key.data()), value))
                .map_err(failed("listing the map"))
        };
        self.0.iter().map(read).collect()
    }
}

fn failed(operation: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |error| {
        Error::system(
            operation,
            Path::new(MAP_PREFIX).display().to_string(),
            std::io::Error::other(error),
        )
    }
}

/// Prefix length over 128 bits, and the network's bytes.
fn key(net: IpNet) -> (u32, [u8; 16]) {
    let extra = if matches!(net.addr(), IpAddr::V4(_)) {
        96
    } else {
        0
    };
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(Addr::from(net.network()).0) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    (u32::from(net.prefix_len()) + extra, bytes)
}

/// The network behind a key.
pub fn network(length: u32, bytes: [u8; 16]) -> Option<IpNet> {
    let address = Ipv6Addr::from(bytes);
    let (address, extra) = match address.to_ipv4_mapped() {
        Some(address) if length >= 96 => (IpAddr::V4(address), 96),
        _ => (IpAddr::V6(address), 0),
    };
    IpNet::new(address, (length - extra).try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_network_stands_behind_the_mapped_prefix() {
        let (length, bytes) = key("10.244.0.0/24".parse().expect("CIDR"));
        assert_eq!(length, 120);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 244, 0, 0]);
        for text in [
            "10.244.0.0/24",
            "0.0.0.0/0",
            "fd00:1::/64",
            "::/0",
            "192.0.2.1/32",
        ] {
            let net: IpNet = text.parse().expect("CIDR");
            let (length, bytes) = key(net);
            assert_eq!(network(length, bytes), Some(net));
        }
    }
}
