//! Which cluster address and node ports a Service gets. What was given once is kept by the Service's UID; what a manifest
//! names is honoured; what is taken is refused, and both owners are named.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::object::Key;

/// What addresses and ports are given from.
#[derive(Clone, Debug)]
pub struct Pools {
    /// The Service network.
    pub addresses: Ipv4Net,
    /// The Service network of IPv6, where there is one.
    pub addresses_v6: Option<Ipv6Net>,
    /// The NodePort range.
    pub node_ports: RangeInclusive<u16>,
}

/// What one Service holds. Kept on disk by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The cluster address; `None` for headless and ExternalName Services.
    pub cluster_ip: Option<IpAddr>,
    /// The cluster address of the other family, of a dual-stack Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_cluster_ip: Option<IpAddr>,
    /// By `name/protocol/port` of the Service port.
    #[serde(default)]
    pub node_ports: BTreeMap<String, u16>,
}

/// Why a Service was given nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Asked for an address that another Service holds.
    #[error("Service {key}: spec.clusterIP {address} is already held by Service {owner}")]
    AddressTaken {
        /// Who asks.
        key: Key,
        /// For what.
        address: IpAddr,
        /// Who has it.
        owner: Key,
    },
    /// Asked for a port that another Service holds.
    #[error("Service {key}: nodePort {port}/{protocol} is already held by Service {owner}")]
    PortTaken {
        /// Who asks.
        key: Key,
        /// For what.
        port: u16,
        /// TCP, UDP or SCTP.
        protocol: String,
        /// Who has it.
        owner: Key,
    },
    /// Asked for an address outside the Service network.
    #[error("Service {key}: spec.clusterIP {text} is not an address within serviceCIDR {pool}")]
    OutsideOfPool {
        /// Who asks.
        key: Key,
        /// For what.
        text: String,
        /// The Service network.
        pool: IpNet,
    },
    /// Asked for a family that the node has no Service network of.
    #[error("Service {key}: it needs an {family} address, and serviceCIDRs has no {family} network")]
    NoNetwork {
        /// Who asks.
        key: Key,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// The Service network is full.
    #[error("Service {key}: no address is free in serviceCIDR {pool} ({used} in use)")]
    AddressesExhausted {
        /// Who asks.
        key: Key,
        /// The Service network.
        pool: IpNet,
        /// Addresses held.
        used: usize,
    },
    /// The NodePort range is full.
    #[error("Service {key}: no port is free in nodePortRange {}-{} ({used} in use)", pool.start(), pool.end())]
    PortsExhausted {
        /// Who asks.
        key: Key,
        /// The range.
        pool: RangeInclusive<u16>,
        /// Ports held.
        used: usize,
    },
}

/// What everyone gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// By Service; a refused one is absent.
    pub given: BTreeMap<Key, Allocation>,
    /// Why the others got nothing.
    pub refused: BTreeMap<Key, Refusal>,
}

/// Allocate for all Services. `kept` is what UIDs hold already. Those who hold something come first, then those who ask for
/// something by name, then the rest: nobody loses what it has to a newcomer.
pub fn allocate(
    services: &BTreeMap<Key, Arc<Service>>,
    kept: &BTreeMap<String, Allocation>,
    pools: &Pools,
) -> Allocations {
    let mut ordered: Vec<_> = services
        .iter()
        .map(|(key, service)| Request::new(key, service, kept))
        .collect();
    ordered.sort_by_key(Request::rank);
    let mut book = Book::default();
    let mut result = Allocations::default();
    for request in ordered {
        match request.allocate(&mut book, pools) {
            Ok(allocation) => drop(result.given.insert(request.key.clone(), allocation)),
            Err(refusal) => drop(result.refused.insert(request.key.clone(), refusal)),
        }
    }
    result
}

/// The Service with its allocation written into it.
pub fn fill(service: &Service, allocation: &Allocation) -> Service {
    let mut service = service.clone();
    let Some(spec) = service.spec.as_mut() else {
        return service;
    };
    let addresses: Vec<IpAddr> = [allocation.cluster_ip, allocation.second_cluster_ip]
        .into_iter()
        .flatten()
        .collect();
    if let Some(first) = addresses.first() {
        spec.cluster_ip = Some(first.to_string());
        spec.cluster_ips = Some(addresses.iter().map(ToString::to_string).collect());
        spec.ip_families = Some(
            addresses
                .iter()
                .map(|address| family(address.is_ipv6()).into())
                .collect(),
        );
        let policy = if addresses.len() == 1 {
            "SingleStack"
        } else {
            "RequireDualStack"
        };
        spec.ip_family_policy.get_or_insert_with(|| policy.into());
    }
    for port in spec.ports.iter_mut().flatten() {
        let name = port_name(port);
        if let Some(number) = allocation.node_ports.get(&name) {
            port.node_port = Some(i32::from(*number));
        }
    }
    service
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn port_name(port: &k8s_openapi::api::core::v1::ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    format!(
        "{}/{protocol}/{}",
        port.name.as_deref().unwrap_or_default(),
        port.port
    )
}

/// Who holds what.
#[derive(Default)]
struct Book {
    addresses: BTreeMap<IpAddr, Key>,
    ports: BTreeMap<(u16, String), Key>,
}

struct Request<'a> {
    key: &'a Key,
    service: &'a Service,
    held: Option<&'a Allocation>,
}

/// Ports of a Service that want a node port: name, protocol, the number asked for.
type WantedPort = (String, String, Option<u16>);

impl<'a> Request<'a> {
    fn new(key: &'a Key, service: &'a Service, kept: &'a BTreeMap<String, Allocation>) -> Self {
        let held = service.metadata.uid.as_ref().and_then(|uid| kept.get(uid));
        Self { key, service, held }
    }

    fn rank(&self) -> (u8, Key) {
        let explicit =
            self.asked_address().is_some() || self.wanted_ports().iter().any(|(_, _, asked)| asked.is_some());
        (
            if self.held.is_some() {
                0
            } else {
                2 - u8::from(explicit)
            },
            self.key.clone(),
        )
    }

    fn kind(&self) -> &str {
        self.service
            .spec
            .as_ref()
            .and_then(|spec| spec.type_.as_deref())
            .unwrap_or("ClusterIP")
    }

    /// Addresses asked for by name, in their order; `None` in words included.
    fn asked_addresses(&self) -> Vec<&str> {
        let Some(spec) = self.service.spec.as_ref() else {
            return Vec::new();
        };
        let several = spec.cluster_ips.as_deref().unwrap_or_default();
        let all = if several.is_empty() {
            spec.cluster_ip.as_slice()
        } else {
            several
        };
        all.iter()
            .map(String::as_str)
            .filter(|ip| !ip.is_empty())
            .collect()
    }

    fn asked_address(&self) -> Option<&str> {
        self.asked_addresses().first().copied()
    }

    /// Which families, first one first; whether each is IPv6. The first follows what was asked for by name, the second the policy.
    fn families(&self, pools: &Pools) -> Vec<bool> {
        let spec = self.service.spec.as_ref();
        let named = spec
            .and_then(|spec| spec.ip_families.as_deref())
            .unwrap_or_default();
        let asked = self.asked_addresses();
        let first = match (asked.first(), named.first()) {
            (Some(address), _) => address.contains(':'),
            (None, Some(family)) => family == "IPv6",
            (None, None) => false,
        };
        let policy = spec.and_then(|spec| spec.ip_family_policy.as_deref());
        let both = match policy {
            Some("RequireDualStack") => true,
            Some("PreferDualStack") => pools.addresses_v6.is_some(),
            _ => asked.len() > 1 || named.len() > 1,
        };
        if both { vec![first, !first] } else { vec![first] }
    }

    fn wanted_ports(&self) -> Vec<WantedPort> {
        let spec = self.service.spec.as_ref();
        let balanced = self.kind() == "LoadBalancer"
            && spec.is_some_and(|spec| spec.allocate_load_balancer_node_ports != Some(false));
        if self.kind() != "NodePort" && !balanced {
            return Vec::new();
        }
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        ports
            .map(|port| {
                let asked = port
                    .node_port
                    .and_then(|number| u16::try_from(number).ok())
                    .filter(|number| *number != 0);
                (
                    port_name(port),
                    port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    asked,
                )
            })
            .collect()
    }

    /// All or nothing: a Service that is refused one thing holds none, so that nothing is half done.
    fn allocate(&self, book: &mut Book, pools: &Pools) -> Result<Allocation, Refusal> {
        let addresses = self.addresses(book, pools)?;
        let mut node_ports = BTreeMap::new();
        let mut taken_here = BTreeSet::new();
        for (name, protocol, asked) in self.wanted_ports() {
            let number = self.port(book, pools, &name, &protocol, asked, &taken_here)?;
            taken_here.insert((number, protocol));
            node_ports.insert(name, number);
        }
        for address in &addresses {
            book.addresses.insert(*address, self.key.clone());
        }
        book.ports
            .extend(taken_here.into_iter().map(|port| (port, self.key.clone())));
        Ok(Allocation {
            cluster_ip: addresses.first().copied(),
            second_cluster_ip: addresses.get(1).copied(),
            node_ports,
        })
    }

    fn addresses(&self, book: &Book, pools: &Pools) -> Result<Vec<IpAddr>, Refusal> {
        if self.kind() == "ExternalName" || self.asked_address() == Some("None") {
            return Ok(Vec::new());
        }
        let asked = self.asked_addresses();
        let families = self.families(pools);
        let of_family = |(index, v6): (usize, bool)| self.address(book, pools, v6, asked.get(index).copied());
        families.into_iter().enumerate().map(of_family).collect()
    }

    fn address(&self, book: &Book, pools: &Pools, v6: bool, asked: Option<&str>) -> Result<IpAddr, Refusal> {
        let pool = match (v6, pools.addresses_v6) {
            (false, _) => IpNet::V4(pools.addresses),
            (true, Some(pool)) => IpNet::V6(pool),
            (true, None) => {
                return Err(Refusal::NoNetwork {
                    key: self.key.clone(),
                    family: family(v6),
                });
            }
        };
        if let Some(text) = asked {
            let outside = || Refusal::OutsideOfPool {
                key: self.key.clone(),
                text: text.to_owned(),
                pool,
            };
            let address: IpAddr = text.parse().map_err(|_| outside())?;
            if !is_usable(address, pool) {
                return Err(outside());
            }
            return match book.addresses.get(&address) {
                Some(owner) => Err(Refusal::AddressTaken {
                    key: self.key.clone(),
                    address,
                    owner: owner.clone(),
                }),
                None => Ok(address),
            };
        }
        let held = self
            .held
            .into_iter()
            .flat_map(|held| [held.cluster_ip, held.second_cluster_ip]);
        let mut free = held
            .flatten()
            .filter(|address| is_usable(*address, pool) && !book.addresses.contains_key(address));
        match free.next() {
            Some(address) => Ok(address),
            None => self.new_address(book, pool),
        }
    }

    /// From the upper band first: the lower one is where people pick addresses by hand. Of an IPv6 network only the beginning is used.
    fn new_address(&self, book: &Book, pool: IpNet) -> Result<IpAddr, Refusal> {
        let size = match pool {
            IpNet::V4(pool) => u32::from(pool.broadcast()) - u32::from(pool.network()),
            IpNet::V6(pool) => u32::MAX
                .checked_shr(u32::from(pool.prefix_len()).saturating_sub(96))
                .unwrap_or(0)
                .min(0xffff),
        };
        let at = |offset: u32| match pool {
            IpNet::V4(pool) => IpAddr::from(Ipv4Addr::from(u32::from(pool.network()) + offset)),
            IpNet::V6(pool) => IpAddr::from(Ipv6Addr::from(u128::from(pool.network()) + u128::from(offset))),
        };
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let start = self.spread(size.saturating_sub(band).max(1));
        let upper = (0..size.saturating_sub(band)).map(|i| band + (start + i) % (size - band));
        let mut candidates = upper
            .chain(0..band)
            .map(at)
            .filter(|address| is_usable(*address, pool));
        let found = candidates.find(|address| !book.addresses.contains_key(address));
        found.ok_or_else(|| Refusal::AddressesExhausted {
            key: self.key.clone(),
            pool,
            used: book.addresses.len(),
        })
    }

    fn port(
        &self,
        book: &Book,
        pools: &Pools,
        name: &str,
        protocol: &str,
        asked: Option<u16>,
        taken_here: &BTreeSet<(u16, String)>,
    ) -> Result<u16, Refusal> {
        let owner = |port: u16| {
            let pair = (port, protocol.to_owned());
            book.ports
                .get(&pair)
                .or_else(|| taken_here.contains(&pair).then_some(self.key))
        };
        if let Some(port) = asked {
            return match owner(port) {
                None => Ok(port),
                Some(owner) => Err(Refusal::PortTaken {
                    key: self.key.clone(),
                    port,
                    protocol: protocol.to_owned(),
                    owner: owner.clone(),
                }),
            };
        }
        let held = self.held.and_then(|held| held.node_ports.get(name)).copied();
        if let Some(port) = held.filter(|port| pools.node_ports.contains(port) && owner(*port).is_none()) {
            return Ok(port);
        }
        let (first, size) = (
            u32::from(*pools.node_ports.start()),
            pools.node_ports.len() as u32,
        );
        let start = self.spread(size.max(1));
        (0..size)
            .filter_map(|i| u16::try_from(first + (start + i) % size).ok())
            .find(|port| owner(*port).is_none())
            .ok_or_else(|| Refusal::PortsExhausted {
                key: self.key.clone(),
                pool: pools.node_ports.clone(),
                used: book.ports.len(),
            })
    }

    /// Where the search starts: spread by UID, so that a deleted Service's address is not at once another's.
    fn spread(&self, size: u32) -> u32 {
        let uid = self.service.metadata.uid.as_deref().unwrap_or(&self.key.name);
        let hash = Sha256::digest(uid);
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % size
    }
}

/// The first address of a network is nobody's, nor is the last one of IPv4.
fn is_usable(address: IpAddr, pool: IpNet) -> bool {
    pool.contains(&address)
        && address != pool.network()
        && (pool.addr().is_ipv6() || address != pool.broadcast())
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
