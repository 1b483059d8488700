//! What the programs' numbers become.

use keelson_abi::{
    CHOICE_RANDOM, DropReason, FRONTEND_EXTERNAL, FRONTEND_LOCAL, MASQUERADE_EXTERNAL, SOURCE_OUTSIDE,
    SOURCE_POD, TRACE_PEER,
};
use serde_json::json;

use super::*;

struct Objects {
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, Arc<EndpointSlice>>,
    pods: BTreeMap<Key, Arc<Pod>>,
}

fn objects() -> Objects {
    let service = |name: &str, created: &str| {
        let value = json!({
            "metadata": { "name": name, "namespace": "shop", "creationTimestamp": created },
            "spec": {
                "clusterIP": "10.96.0.1",
                "ports": [
                    { "name": "http", "port": 80, "nodePort": 30080 },
                    { "name": "dns", "port": 80, "protocol": "UDP" },
                ],
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } },
        });
        let service: Service = serde_json::from_value(value).expect("a Service");
        (Key::new("shop", name), Arc::new(service))
    };
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.244.0.7"], "nodeName": "n1",
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": "web-a" },
                "hints": { "forZones": [{ "name": "a" }] },
            },
            { "addresses": ["10.244.1.8"], "nodeName": "n2", "hints": { "forZones": [{ "name": "b" }] } },
        ],
    }))
    .expect("a slice");
    Objects {
        services: [
            service("web", "2026-01-01T00:00:00Z"),
            service("later", "2026-01-02T00:00:00Z"),
        ]
        .into(),
        slices: [(Key::new("shop", "web-1"), Arc::new(slice))].into(),
        pods: BTreeMap::new(),
    }
}

impl Objects {
    fn explain(&self, question: &Question, seen: &Seen) -> Explanation {
        let names = Names {
            services: &self.services,
            slices: &self.slices,
            pods: &self.pods,
        };
        explain(question, seen, names)
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn key(source: &str, target: &str) -> FlowKey {
    let (source, target) = (at(source), at(target));
    FlowKey {
        src: source.ip().into(),
        dst: target.ip().into(),
        sport_be: source.port().to_be(),
        dport_be: target.port().to_be(),
        proto: packet::TCP,
        reserved: [0; 3],
    }
}

fn question(source: &str, target: &str) -> Question {
    Question {
        source: at(source),
        destination: at(target),
        protocol: packet::TCP,
    }
}

fn asked(target: &str) -> FrontendKey {
    let target = at(target);
    FrontendKey {
        addr: target.ip().into(),
        port_be: target.port().to_be(),
        proto: packet::TCP,
        reserved: 0,
    }
}

fn found<'a>(explanation: &'a Explanation, about: &str) -> &'a str {
    let mut reasons = explanation.reasons.iter();
    reasons
        .find(|reason| reason.about == about)
        .map_or("", |reason| reason.found.as_str())
}

fn slot(address: &str) -> Backend {
    let address = at(address);
    Backend {
        addr: address.ip().into(),
        port_be: address.port().to_be(),
        flags: 0,
    }
}

#[test]
fn a_chosen_endpoint_is_told_with_all_that_could_have_been_chosen() {
    let trace = Trace {
        key: key("10.244.0.5:4000", "10.96.0.1:80"),
        translated: key("10.244.0.5:4000", "10.244.0.7:8080"),
        frontend: asked("10.96.0.1:80"),
        verdict: TRACE_PEER,
        ifindex: 7,
        candidates: 1,
        choice: CHOICE_RANDOM,
        source: SOURCE_POD,
        ..Trace::default()
    };
    let seen = Seen {
        place: "pod shop/client".to_owned(),
        trace,
        device: "k7".to_owned(),
        frontend: Some(Frontend {
            count: 1,
            ..Frontend::default()
        }),
        slots: vec![slot("10.244.0.7:8080")],
    };
    let explanation = objects().explain(&question("10.244.0.5:4000", "10.96.0.1:80"), &seen);
    let service = explanation.service.as_ref().expect("a Service");
    assert_eq!(
        (service.name.as_str(), service.port.as_str(), service.entry),
        ("web", "http", "ClusterIP"),
        "the oldest of two that claim the address"
    );
    let endpoint = explanation.endpoint.as_ref().expect("an endpoint");
    assert_eq!(
        (endpoint.address, endpoint.pod.as_str(), endpoint.node.as_str()),
        (at("10.244.0.7:8080"), "shop/web-a", "n1")
    );
    assert_eq!(explanation.candidates, std::slice::from_ref(endpoint));
    assert!(
        explanation.verdict.contains("device k7"),
        "{}",
        explanation.verdict
    );
    assert_eq!(explanation.after.destination, at("10.244.0.7:8080"));
    assert_eq!(found(&explanation, "choice"), "the only endpoint");
    assert_eq!(
        found(&explanation, "topology"),
        "hints leave 1 of 2 ready endpoints to this node"
    );
    assert!(found(&explanation, "masquerade").starts_with("none"));
}

#[test]
fn every_entry_of_a_service_is_told_by_its_kind() {
    for (target, entry) in [
        ("10.96.0.1:80", "ClusterIP"),
        ("192.0.2.9:80", "LoadBalancer"),
        ("198.51.100.1:30080", "NodePort"),
    ] {
        let seen = Seen {
            trace: Trace {
                frontend: asked(target),
                ..Trace::default()
            },
            ..Seen::default()
        };
        let explanation = objects().explain(&question("203.0.113.1:1", target), &seen);
        assert_eq!(
            explanation.service.map(|service| service.entry),
            Some(entry),
            "{target}"
        );
    }
    let seen = Seen {
        trace: Trace {
            frontend: asked("10.96.0.1:81"),
            ..Trace::default()
        },
        ..Seen::default()
    };
    let explanation = objects().explain(&question("203.0.113.1:1", "10.96.0.1:81"), &seen);
    assert_eq!(explanation.service, None);
    assert!(found(&explanation, "frontend").contains("no Service claims it"));
}

#[test]
fn a_refusal_keeps_the_addresses_and_says_why_it_is_one() {
    let seen = Seen {
        trace: Trace {
            key: key("203.0.113.1:1", "192.0.2.9:80"),
            translated: key("203.0.113.1:1", "192.0.2.9:80"),
            frontend: asked("192.0.2.9:80"),
            verdict: TRACE_DROP,
            drop_reason: DropReason::PolicyLocal as u32 + 1,
            source: SOURCE_OUTSIDE,
            ..Trace::default()
        },
        frontend: Some(Frontend {
            flags: FRONTEND_EXTERNAL | FRONTEND_LOCAL,
            ..Frontend::default()
        }),
        ..Seen::default()
    };
    let explanation = objects().explain(&question("203.0.113.1:1", "192.0.2.9:80"), &seen);
    assert!(
        explanation
            .verdict
            .starts_with("dropped in silence: the policy is Local"),
        "{}",
        explanation.verdict
    );
    assert_eq!(explanation.before, explanation.after);
    assert_eq!(explanation.endpoint, None);
    assert!(found(&explanation, "policy").starts_with("externalTrafficPolicy Local"));
    assert_eq!(found(&explanation, "masquerade"), "", "nothing is sent");
    let masqueraded = Seen {
        trace: Trace {
            verdict: TRACE_PEER,
            masquerade: MASQUERADE_EXTERNAL,
            translated: key("192.0.2.1:0", "10.244.0.7:8080"),
            ..seen.trace
        },
        ..seen
    };
    let explanation = objects().explain(&question("203.0.113.1:1", "192.0.2.9:80"), &masqueraded);
    assert!(found(&explanation, "masquerade").contains("externalTrafficPolicy Cluster"));
    assert!(found(&explanation, "source port").contains("snatPorts"));
}

#[test]
fn every_reason_to_drop_has_a_name_and_words() {
    assert_eq!(
        words::DROPS[DropReason::FlowTableFull as usize].0,
        "FlowTableFull"
    );
    assert_eq!(words::DROPS[DropReason::Exchanged as usize].0, "Exchanged");
    let names: std::collections::BTreeSet<_> = words::DROPS.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), words::DROPS.len());
}
