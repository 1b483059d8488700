//! Endpoints of one Service port out of its EndpointSlices.
//!
//! Ports match by name and protocol, so that a named target port may be another number in each slice. Only the first address of
//! an endpoint counts. What cannot be used is left out and told; everything else stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::discovery::v1::{self, EndpointSlice};

use super::{address, node::NodeView, select::Endpoint};

/// What was left out of the slices of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Each with the reason; the same endpoint under several ports stands here once.
    endpoints: BTreeSet<String>,
    /// More than are named.
    more: bool,
}

/// So many are named in one message.
const NAMED: usize = 3;

impl Skipped {
    fn add(&mut self, slice: &EndpointSlice, address: &str, why: &str) {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let address: String = address.chars().take(64).collect();
        let text = format!("{address:?} in EndpointSlice {name} ({why})");
        if self.endpoints.len() < NAMED || self.endpoints.contains(&text) {
            self.endpoints.insert(text);
        } else {
            self.more = true;
        }
    }

    /// For people; `None` = nothing was left out.
    pub fn message(&self) -> Option<String> {
        let texts: Vec<&str> = self.endpoints.iter().map(String::as_str).collect();
        let more = if self.more { " and others" } else { "" };
        (!texts.is_empty()).then(|| format!("endpoints left out: {}{more}", texts.join(", ")))
    }
}

/// The endpoints of a port in one family, in the order of their addresses and ports. Several slices are merged; of the same
/// endpoint in two slices the one that is not terminating counts.
pub fn of_port<'a>(
    name: &str,
    protocol: &str,
    v6: bool,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeView,
    skipped: &mut Skipped,
) -> Vec<Endpoint> {
    let mut merged: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| is_of_family(slice, v6)) {
        let matching = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        for number in matching.filter_map(port_number) {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(address) = usable_address(endpoint, slice, v6, skipped) else {
                    continue;
                };
                let found = endpoint_at(endpoint, address, number, node);
                match merged.entry((address, number)) {
                    std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(found)),
                    std::collections::btree_map::Entry::Occupied(mut known) => {
                        if known.get().terminating && !found.terminating {
                            known.insert(found);
                        }
                    }
                }
            }
        }
    }
    merged.into_values().collect()
}

/// Distinct addresses of endpoints that are ready on this node, under any port.
pub fn local_ready<'a>(
    v6: bool,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeView,
) -> BTreeSet<IpAddr> {
    let mut ready = BTreeSet::new();
    for slice in slices.filter(|slice| is_of_family(slice, v6)) {
        let has_port = |port: &v1::EndpointPort| port.name.is_some() && port_number(port).is_some();
        if !slice.ports.iter().flatten().any(has_port) {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            if is_local(endpoint, node)
                && is_ready(endpoint)
                && let Some(address) = usable_address(endpoint, slice, v6, &mut Skipped::default())
            {
                ready.insert(address);
            }
        }
    }
    ready
}

fn is_of_family(slice: &EndpointSlice, v6: bool) -> bool {
    slice.address_type == if v6 { "IPv6" } else { "IPv4" }
}

fn port_number(port: &v1::EndpointPort) -> Option<u16> {
    u16::try_from(port.port?).ok().filter(|number| *number != 0)
}

fn usable_address(
    endpoint: &v1::Endpoint,
    slice: &EndpointSlice,
    v6: bool,
    skipped: &mut Skipped,
) -> Option<IpAddr> {
    let text = endpoint.addresses.first()?;
    let why = match address::parse(text) {
        None => "not an address",
        Some(address) if address.is_ipv6() != v6 => "not of the slice's addressType",
        Some(address) if !address::is_usable(address) => "nothing can be sent there",
        Some(address) => return Some(address),
    };
    skipped.add(slice, text, why);
    None
}

fn is_ready(endpoint: &v1::Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

fn is_local(endpoint: &v1::Endpoint, node: &NodeView) -> bool {
    endpoint.node_name.as_deref() == Some(node.name.as_str())
}

/// Absent conditions mean ready, serving and not terminating.
fn endpoint_at(endpoint: &v1::Endpoint, address: IpAddr, port: u16, node: &NodeView) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    Endpoint {
        address,
        port,
        ready: is_ready(endpoint),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: is_local(endpoint, node),
        node_hints: hints
            .iter()
            .flat_map(|h| h.for_nodes.iter().flatten())
            .map(|hint| hint.name.clone())
            .collect(),
        zone_hints: hints
            .iter()
            .flat_map(|h| h.for_zones.iter().flatten())
            .map(|hint| hint.name.clone())
            .collect(),
    }
}
