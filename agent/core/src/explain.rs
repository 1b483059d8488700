//! Why a packet goes where it goes: what a dry run of the programs told, in the words of Services and pods.
//!
//! The programs decide; nothing is decided again here. What they tell in numbers gets its name from the objects.

pub mod packet;
pub mod programmed;
pub mod words;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use keelson_abi::{
    Backend, CHOICE_ANSWER, CHOICE_FLOW, CHOICE_NONE, FlowKey, Frontend, FrontendKey, TRACE_DROP,
    TRACE_REFUSE, Trace,
};
use serde::Serialize;

use crate::object::Key;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// IPPROTO_*.
    pub protocol: u8,
}

/// What the programs and their maps said.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Where the packet was let in, for people.
    pub place: String,
    /// What the program wrote.
    pub trace: Trace,
    /// Name of the device it would be sent to; empty = none.
    pub device: String,
    /// The frontend asked, if any.
    pub frontend: Option<Frontend>,
    /// The slots that an endpoint is chosen from.
    pub slots: Vec<Backend>,
}

/// What gives numbers their names.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Services.
    pub services: &'a BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices.
    pub slices: &'a BTreeMap<Key, Arc<EndpointSlice>>,
    /// Pods.
    pub pods: &'a BTreeMap<Key, Arc<Pod>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: &'static str,
    /// Where the packet was let in.
    pub from: String,
    /// Source and destination as sent.
    pub before: Pair,
    /// Source and destination as they would arrive; those before where nothing is translated.
    pub after: Pair,
    /// What becomes of it.
    pub verdict: String,
    /// Device it would leave by.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Service, port and entry it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Entry>,
    /// The endpoint chosen this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Target>,
    /// Every endpoint that could have been chosen.
    pub candidates: Vec<Target>,
    /// The chain of reasons, in order.
    pub reasons: Vec<Reason>,
}

/// Source and destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// A way into a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port's name, or number where it has none.
    pub port: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP`.
    pub entry: &'static str,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// The pod that has it, as `namespace/name`; empty = none is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The node it is on; empty = not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Says so: it is about to end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What was looked at: `source`, `frontend`, `policy`, …
    pub about: &'static str,
    /// What was found.
    pub found: String,
}

/// Put what was seen into words.
pub fn explain(question: &Question, seen: &Seen, names: Names<'_>) -> Explanation {
    let trace = &seen.trace;
    let before = Pair {
        source: question.source,
        destination: question.destination,
    };
    let stopped = [TRACE_DROP, TRACE_REFUSE].contains(&trace.verdict);
    let after = if stopped || trace.translated.proto == 0 {
        before.clone()
    } else {
        pair(&trace.translated)
    };
    let asked = trace.frontend.port_be != 0;
    let service = asked.then(|| owner(&trace.frontend, names.services)).flatten();
    let chosen = !stopped && trace.choice != CHOICE_NONE && trace.choice != CHOICE_ANSWER;
    let endpoint = chosen.then(|| target(after.destination, &service, names));
    let candidates = if trace.choice == CHOICE_FLOW {
        Vec::new()
    } else {
        let slots = seen.slots.iter();
        slots
            .map(|slot| {
                let address = SocketAddr::new(slot.addr.into(), u16::from_be(slot.port_be));
                target(address, &service, names)
            })
            .collect()
    };
    Explanation {
        protocol: words::protocol(question.protocol),
        from: seen.place.clone(),
        verdict: words::verdict(trace, question.protocol, &seen.device),
        device: seen.device.clone(),
        reasons: words::reasons(seen, &service, &candidates, names),
        before,
        after,
        service,
        endpoint,
        candidates,
    }
}

fn pair(key: &FlowKey) -> Pair {
    Pair {
        source: SocketAddr::new(key.src.into(), u16::from_be(key.sport_be)),
        destination: SocketAddr::new(key.dst.into(), u16::from_be(key.dport_be)),
    }
}

/// The Service that a frontend is of: the oldest, where several claim it.
fn owner(key: &FrontendKey, services: &BTreeMap<Key, Arc<Service>>) -> Option<Entry> {
    let mut owners: Vec<_> = services
        .iter()
        .filter_map(|(name, service)| {
            let (port, entry) = entry_of(key, service)?;
            let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
            Some((created, name, port, entry))
        })
        .collect();
    owners.sort_by_key(|(created, name, ..)| (*created, *name));
    let (_, name, port, entry) = owners.into_iter().next()?;
    Some(Entry {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        port,
        entry,
    })
}

fn entry_of(key: &FrontendKey, service: &Service) -> Option<(String, &'static str)> {
    let spec = service.spec.as_ref()?;
    let address = IpAddr::from(key.addr);
    let is = |text: &String| text.parse() == Ok(address);
    let number = i32::from(u16::from_be(key.port_be));
    let mut ports = spec
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == words::protocol(key.proto));
    let cluster = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten())
        .any(is);
    let ingress = service
        .status
        .iter()
        .flat_map(|status| status.load_balancer.iter())
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    let balanced = ingress.filter_map(|ingress| ingress.ip.as_ref()).any(is);
    let external = spec.external_ips.iter().flatten().any(is);
    let (found, entry) = match (cluster, balanced, external) {
        (true, ..) => (ports.find(|port| port.port == number), "ClusterIP"),
        (_, true, _) => (ports.find(|port| port.port == number), "LoadBalancer"),
        (_, _, true) => (ports.find(|port| port.port == number), "ExternalIP"),
        _ => (ports.find(|port| port.node_port == Some(number)), "NodePort"),
    };
    let port = found?;
    Some((port.name.clone().unwrap_or_else(|| port.port.to_string()), entry))
}

/// What is known of an endpoint of a Service.
fn target(address: SocketAddr, service: &Option<Entry>, names: Names<'_>) -> Target {
    let text = address.ip().to_string();
    let has = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.is_some_and(|status| status.pod_ip.as_ref() == Some(&text))
            && pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.host_network != Some(true))
    };
    let endpoint = service.as_ref().and_then(|service| {
        words::endpoints(service, names)
            .find(|endpoint| endpoint.addresses.first() == Some(&text))
            .cloned()
    });
    let referred = endpoint.as_ref().and_then(|endpoint| {
        let reference = endpoint.target_ref.as_ref()?;
        let namespace = reference.namespace.clone().unwrap_or_default();
        Some(format!("{namespace}/{}", reference.name.clone()?))
    });
    let pod = referred.or_else(|| {
        let mut pods = names.pods.iter();
        pods.find(|(_, pod)| has(pod)).map(|(key, _)| key.to_string())
    });
    let conditions = endpoint.as_ref().and_then(|endpoint| endpoint.conditions.clone());
    Target {
        address,
        pod: pod.unwrap_or_default(),
        terminating: conditions.is_some_and(|conditions| conditions.terminating == Some(true)),
        node: endpoint
            .and_then(|endpoint| endpoint.node_name)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
