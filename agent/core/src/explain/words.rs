//! Numbers of the programs → words for people.

use k8s_openapi::api::discovery::v1::Endpoint;
use keelson_abi::{
    CHOICE_AFFINITY, CHOICE_ANSWER, CHOICE_FLOW, CHOICE_HOST_PORT, CHOICE_MAGLEV, CHOICE_NONE, CHOICE_RANDOM,
    DROP_REASONS, FRONTEND_DROP, FRONTEND_EXTERNAL, FRONTEND_LOCAL, FRONTEND_RANGES, FRONTEND_RESET_GONE,
    Frontend, MASQUERADE_ALL, MASQUERADE_EXTERNAL, MASQUERADE_HAIRPIN, MASQUERADE_HOST, MASQUERADE_LOCAL,
    MASQUERADE_OUTSIDE, MASQUERADE_POD, SOURCE_HOST, SOURCE_OUTSIDE, SOURCE_POD, TRACE_DROP, TRACE_INJECT,
    TRACE_NEIGH, TRACE_PASS, TRACE_PEER, TRACE_REFUSE, Trace,
};

use super::{Entry, Names, Reason, Seen, Target, packet};

/// As Services write it.
pub(super) fn protocol(number: u8) -> &'static str {
    match number {
        packet::TCP => "TCP",
        packet::UDP => "UDP",
        packet::SCTP => "SCTP",
        _ => "other",
    }
}

/// Why packets are dropped or refused, by `DropReason`: a name for machines, and what it means.
pub const DROPS: [(&str, &str); DROP_REASONS as usize] = [
    ("Malformed", "it is shorter than its own headers say"),
    ("SourceCheck", "its source address is not the sender's to use"),
    (
        "NoConnection",
        "it belongs to no connection that is known here, and does not open one",
    ),
    ("NoEndpoint", "the Service has no endpoint"),
    ("UnknownPort", "the Service has no such port"),
    (
        "PolicyLocal",
        "the policy is Local and no endpoint is on this node",
    ),
    ("FlowTableFull", "the table of connections is full"),
    ("NoPort", "no source port is free for the translation"),
    (
        "Fragment",
        "it is a part of a datagram whose beginning was not seen",
    ),
    ("Rewrite", "it could not be rewritten"),
    ("Protocol", "the source of this protocol cannot be translated"),
    (
        "UnknownAddress",
        "nobody has this address of the Service or pod networks",
    ),
    (
        "SourceRange",
        "the Service's loadBalancerSourceRanges do not let its source in",
    ),
    (
        "EndpointGone",
        "the endpoint of its connection is gone, and the Service wants its clients told",
    ),
    ("Exchanged", "the endpoints were exchanged while one was chosen"),
];

fn dropped(trace: &Trace) -> &'static str {
    let reason = trace.drop_reason.checked_sub(1);
    reason
        .and_then(|reason| DROPS.get(reason as usize))
        .map_or("the program gave no reason", |(_, why)| why)
}

/// What becomes of the packet.
pub(super) fn verdict(trace: &Trace, protocol: u8, device: &str) -> String {
    let same = trace.key == trace.translated;
    match trace.verdict {
        TRACE_PASS if same => "passed to the stack as it is".to_owned(),
        TRACE_PASS => "translated, and passed to the stack".to_owned(),
        TRACE_PEER => format!("delivered to a pod of this node, by its device {device}"),
        TRACE_NEIGH => format!("sent out by device {device}"),
        TRACE_INJECT => "handed to a process of this node".to_owned(),
        TRACE_REFUSE => {
            let how = if protocol == packet::TCP {
                "a reset"
            } else {
                "an ICMP error \"port unreachable\""
            };
            format!("refused with {how}: {}", dropped(trace))
        }
        TRACE_DROP => format!("dropped in silence: {}", dropped(trace)),
        _ => "the program did not see the packet".to_owned(),
    }
}

/// Endpoints of a Service in its slices.
pub(super) fn endpoints<'a>(
    service: &Entry,
    names: Names<'a>,
) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
    let (namespace, name) = (service.namespace.clone(), service.name.clone());
    let of_service = move |slice: &k8s_openapi::api::discovery::v1::EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        let of = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
        of == Some(&name)
    };
    names
        .slices
        .iter()
        .filter(move |(key, slice)| key.namespace == namespace && of_service(slice))
        .flat_map(|(_, slice)| slice.endpoints.iter().flatten())
}

/// The chain of reasons.
pub(super) fn reasons(
    seen: &Seen,
    service: &Option<Entry>,
    candidates: &[Target],
    names: Names<'_>,
) -> Vec<Reason> {
    let trace = &seen.trace;
    let mut reasons = Vec::new();
    let mut say = |about, found: String| {
        if !found.is_empty() {
            reasons.push(Reason { about, found });
        }
    };
    say("source", source(trace).to_owned());
    say("frontend", frontend(trace, service));
    if let Some(frontend) = &seen.frontend {
        say("sources", ranges(trace).to_owned());
        say("policy", policy(trace, frontend).to_owned());
        say("topology", topology(service, frontend, names));
        say("terminating", terminating(candidates).to_owned());
        say("affinity", affinity(trace, frontend));
    }
    say("choice", choice(trace));
    if trace.frontend_flags & FRONTEND_RESET_GONE != 0 {
        say(
            "endpoint gone",
            "connections to an endpoint that goes are reset, as the Service asks".to_owned(),
        );
    }
    if ![TRACE_DROP, TRACE_REFUSE].contains(&trace.verdict) {
        say("masquerade", masquerade(trace).to_owned());
        if trace.translated.sport_be == 0 && trace.key.sport_be != 0 {
            say(
                "source port",
                "one of snatPorts that is free when the connection begins; shown as 0".to_owned(),
            );
        }
    }
    reasons
}

fn source(trace: &Trace) -> &'static str {
    match trace.source {
        SOURCE_POD => "a pod of the cluster",
        SOURCE_HOST => "a process of this node",
        SOURCE_OUTSIDE => "neither a pod of the cluster nor a process of this node",
        _ => "",
    }
}

fn frontend(trace: &Trace, service: &Option<Entry>) -> String {
    if trace.frontend.port_be == 0 {
        return match (trace.choice, trace.drop_reason) {
            (CHOICE_HOST_PORT, _) => "a pod's host port".to_owned(),
            (CHOICE_ANSWER, _) => String::new(),
            (_, 0) => "no Service is asked".to_owned(),
            _ => String::new(),
        };
    }
    let address = std::net::SocketAddr::new(trace.frontend.addr.into(), u16::from_be(trace.frontend.port_be));
    let asked = format!("{address}/{}", protocol(trace.frontend.proto));
    match service {
        Some(service) => format!(
            "{} {asked} of Service {}/{}, port {}",
            service.entry, service.namespace, service.name, service.port
        ),
        None => format!(
            "{asked} is programmed (id {}), but no Service claims it any more",
            trace.service
        ),
    }
}

fn ranges(trace: &Trace) -> &'static str {
    if trace.frontend_flags & FRONTEND_RANGES == 0 {
        ""
    } else if trace.verdict == TRACE_DROP {
        "only those in loadBalancerSourceRanges are let in"
    } else {
        "let in by loadBalancerSourceRanges"
    }
}

fn policy(trace: &Trace, frontend: &Frontend) -> &'static str {
    let (local, external) = (
        frontend.flags & FRONTEND_LOCAL != 0,
        frontend.flags & FRONTEND_EXTERNAL != 0,
    );
    match (external, local, trace.source) {
        (false, true, _) => "internalTrafficPolicy Local: only endpoints on this node",
        (true, true, SOURCE_OUTSIDE) => {
            if frontend.local_count == 0 && frontend.flags & FRONTEND_DROP != 0 {
                "externalTrafficPolicy Local: only endpoints on this node, and there are none while others have some"
            } else {
                "externalTrafficPolicy Local: only endpoints on this node, which see the client's address"
            }
        }
        (true, true, _) => {
            "externalTrafficPolicy Local, which for the cluster's own clients means all endpoints"
        }
        (true, false, _) => "externalTrafficPolicy Cluster: all endpoints",
        (false, false, _) => "internalTrafficPolicy Cluster: all endpoints",
    }
}

/// How the hints narrow the endpoints down, as far as the objects tell.
fn topology(service: &Option<Entry>, frontend: &Frontend, names: Names<'_>) -> String {
    let Some(service) = service else {
        return String::new();
    };
    let ready = |endpoint: &&Endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    };
    let all: Vec<&Endpoint> = endpoints(service, names).filter(ready).collect();
    let hinted = !all.is_empty() && all.iter().all(|endpoint| endpoint.hints.is_some());
    let used = frontend.count as usize;
    match (hinted, used < all.len()) {
        (true, true) => format!("hints leave {used} of {} ready endpoints to this node", all.len()),
        (true, false) => format!("hints leave all {} ready endpoints to this node", all.len()),
        (false, _) => String::new(),
    }
}

fn terminating(candidates: &[Target]) -> &'static str {
    if !candidates.is_empty() && candidates.iter().all(|candidate| candidate.terminating) {
        "no endpoint is ready: those that are about to end and still serve are used"
    } else {
        ""
    }
}

fn affinity(trace: &Trace, frontend: &Frontend) -> String {
    match (frontend.affinity_seconds, trace.choice) {
        (0, _) => String::new(),
        (seconds, CHOICE_AFFINITY) => {
            format!("ClientIP, {seconds} s: this client was given this endpoint before")
        }
        (seconds, CHOICE_FLOW) => format!("ClientIP, {seconds} s"),
        (seconds, _) => format!("ClientIP, {seconds} s: this client was given none that may still be used"),
    }
}

fn choice(trace: &Trace) -> String {
    match trace.choice {
        CHOICE_RANDOM if trace.candidates == 1 => "the only endpoint".to_owned(),
        CHOICE_RANDOM => format!(
            "at random, of {}: another connection may be given another",
            trace.candidates
        ),
        CHOICE_MAGLEV => format!(
            "by the client's address and port, of {}: the same on every node",
            trace.candidates
        ),
        CHOICE_AFFINITY => "the endpoint that this client was given before".to_owned(),
        CHOICE_FLOW => "the connection is known: it keeps its endpoint".to_owned(),
        CHOICE_HOST_PORT => "the pod that has the port".to_owned(),
        CHOICE_ANSWER => "it is the answer of a known connection, and gets its addresses back".to_owned(),
        CHOICE_NONE => String::new(),
        other => format!("in a way that this version does not know ({other})"),
    }
}

fn masquerade(trace: &Trace) -> &'static str {
    match trace.masquerade {
        MASQUERADE_ALL => "the source becomes the node's: masqueradeAll is on",
        MASQUERADE_OUTSIDE => {
            "the source becomes the node's: a Service address is asked from outside the cluster"
        }
        MASQUERADE_EXTERNAL => {
            "the source becomes the node's: with externalTrafficPolicy Cluster the answer must come back this way"
        }
        MASQUERADE_HOST => "the source becomes the node's: a process of this node asks an external address",
        MASQUERADE_HAIRPIN => "the source becomes the gateway's: the pod reaches itself",
        MASQUERADE_LOCAL => "the source becomes one that means something beyond the process's own device",
        MASQUERADE_POD => "the source becomes the node's: the pod's own means nothing outside",
        _ => "none: the endpoint sees the client's own address",
    }
}
