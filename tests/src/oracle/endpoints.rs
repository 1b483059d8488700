//! Which endpoints count.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    objects::{Cluster, Port, Service, Slice},
    text,
};

/// Slices with this label are not for proxies.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The endpoints of one Service port and one family that new connections may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Where the policy is Cluster.
    pub cluster: BTreeSet<SocketAddr>,
    /// Where the policy is Local.
    pub local: BTreeSet<SocketAddr>,
    /// Whether there is one at all, here or on another node.
    pub anywhere: bool,
    /// Those that datagram flows may stay with: all that serve, whatever policy and distance say.
    pub serving: BTreeSet<SocketAddr>,
}

/// An endpoint after everything about it was read.
#[derive(Clone, Debug)]
struct Candidate {
    address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    here: bool,
    for_nodes: BTreeSet<String>,
    for_zones: BTreeSet<String>,
}

impl Candidate {
    /// Leaving, but still able to answer.
    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

impl Cluster {
    /// The endpoints of a Service port for clients of one family.
    pub fn sets(&self, service: &Service, port: &Port, ipv6: bool) -> Sets {
        let candidates = self.candidates(service, port, ipv6);
        let pick = |wanted: &dyn Fn(&Candidate) -> bool| -> BTreeSet<SocketAddr> {
            candidates
                .iter()
                .filter(|one| wanted(one))
                .map(|one| one.address)
                .collect()
        };
        // kube-proxy's rule: the Cluster set is the ready endpoints that the hints leave; where there is none, those that leave
        // but still serve, and then hints do not count.
        let near = self.hints(&candidates);
        let mut cluster = pick(&|one| one.ready && near.admits(one));
        if cluster.is_empty() {
            cluster = pick(&Candidate::is_last_resort);
        }
        // kube-proxy's rule: the Local set is the same among the endpoints of this node, by itself; hints never count.
        let mut local = pick(&|one| one.here && one.ready);
        if local.is_empty() {
            local = pick(&|one| one.here && one.is_last_resort());
        }
        Sets {
            cluster,
            local,
            anywhere: candidates.iter().any(|one| one.ready || one.is_last_resort()),
            serving: pick(&|one| one.serving),
        }
    }

    /// Every endpoint of a port and family, once.
    fn candidates(&self, service: &Service, port: &Port, ipv6: bool) -> Vec<Candidate> {
        // kube-proxy's rule: slices belong to the Service their label names; those labelled headless, and those of names instead
        // of addresses, are left out; each family has its own slices.
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let own = self.slices.iter().filter(|slice| {
            slice.namespace == service.namespace
                && slice.service == service.name
                && slice.address_type == family
                && !slice.labels.contains_key(HEADLESS)
        });
        let mut merged: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
        for candidate in own.flat_map(|slice| self.of_slice(slice, port, ipv6)) {
            // kube-proxy's rule: the same address and port in two slices is one endpoint; the one that is not leaving counts.
            let known = merged.get(&candidate.address);
            if known.is_none_or(|known| known.terminating && !candidate.terminating) {
                merged.insert(candidate.address, candidate);
            }
        }
        merged.into_values().collect()
    }

    fn of_slice(&self, slice: &Slice, port: &Port, ipv6: bool) -> Vec<Candidate> {
        // kube-proxy's rule: ports are matched by name and protocol, so the number may differ per slice; a port without a name or
        // a number is left out.
        let numbers = slice.ports.iter().filter_map(|candidate| {
            let named = candidate.name.as_deref() == Some(port.name.as_str());
            let protocol = candidate.protocol.as_deref().unwrap_or("TCP") == port.protocol;
            let number = candidate.number.and_then(|number| u16::try_from(number).ok());
            number.filter(|number| named && protocol && *number != 0)
        });
        let numbers: Vec<u16> = numbers.collect();
        let mut found = Vec::new();
        for endpoint in &slice.endpoints {
            // kube-proxy's rule: only the first address counts, and only if it is one of the family.
            let first = endpoint.addresses.first().and_then(|first| text::address(first));
            let Some(address) = first.filter(|address: &IpAddr| address.is_ipv6() == ipv6) else {
                continue;
            };
            // kube-proxy's rule: what is not said means ready, serving, and not leaving; an endpoint without a node is not here.
            found.extend(numbers.iter().map(|number| Candidate {
                address: SocketAddr::new(address, *number),
                ready: endpoint.ready != Some(false),
                serving: endpoint.serving != Some(false),
                terminating: endpoint.terminating == Some(true),
                here: endpoint.node.as_ref() == Some(&self.node.name),
                for_nodes: endpoint.for_nodes.iter().cloned().collect(),
                for_zones: endpoint.for_zones.iter().cloned().collect(),
            }));
        }
        found
    }

    /// kube-proxy's rule: hints count only where every ready endpoint has one of the kind and at least one of them means us;
    /// nodes come before zones.
    fn hints(&self, candidates: &[Candidate]) -> Near {
        let usable = |hints: &dyn Fn(&Candidate) -> BTreeSet<String>, ours: &str| {
            let mut ready = candidates.iter().filter(|one| one.ready).peekable();
            let mut ours_named = false;
            ready.peek().is_some()
                && ready.all(|one| {
                    ours_named |= hints(one).contains(ours);
                    !hints(one).is_empty()
                })
                && ours_named
        };
        if usable(&|one| one.for_nodes.clone(), &self.node.name) {
            return Near::Node(self.node.name.clone());
        }
        match &self.node.zone {
            Some(zone) if usable(&|one| one.for_zones.clone(), zone) => Near::Zone(zone.clone()),
            _ => Near::Anywhere,
        }
    }
}

/// How far the Cluster policy goes.
enum Near {
    Node(String),
    Zone(String),
    Anywhere,
}

impl Near {
    fn admits(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Node(name) => candidate.for_nodes.contains(name),
            Self::Zone(zone) => candidate.for_zones.contains(zone),
            Self::Anywhere => true,
        }
    }
}
