//! Health of the service proxy: whether it keeps up with what it is told, and what it answers to those who ask.
//!
//! A load balancer in front of the nodes asks `/healthz` (is this node to get traffic?), an orchestrator `/livez` (does the proxy
//! work?), and a load balancer for one Service the Service's own port (is there an endpoint here?). The answers are Kubernetes'.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::object::Key;

/// Set by the cluster autoscaler on nodes it is about to take away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// How far programming a family's Services is. Spans count from some fixed moment, by a clock that never jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the oldest change that is not programmed yet was told.
    pub waiting: Option<Duration>,
    /// When everything was programmed last.
    pub updated: Option<Timestamp>,
}

/// All families, by which the proxy is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progresses(BTreeMap<Family, Progress>);

/// What the proxy is, as of some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Every family keeps up.
    pub healthy: bool,
    /// When that was so last.
    pub updated: Option<Timestamp>,
    /// The same of each family.
    pub families: BTreeMap<Family, (bool, Option<Timestamp>)>,
}

impl Progresses {
    /// These families are programmed, whether or not a change was told yet.
    pub fn expect(&mut self, families: &[Family]) {
        for family in families {
            self.0.entry(*family).or_default();
        }
    }

    /// A change is to be programmed.
    pub fn queued(&mut self, now: Duration) {
        for progress in self.0.values_mut() {
            progress.waiting.get_or_insert(now);
        }
    }

    /// All that was told is programmed.
    pub fn updated(&mut self, at: Timestamp) {
        for progress in self.0.values_mut() {
            *progress = Progress {
                waiting: None,
                updated: Some(at),
            };
        }
    }

    /// A family that has waited for longer than `limit` is unhealthy; one that never began is not.
    pub fn verdict(&self, now: Duration, at: Timestamp, limit: Duration) -> Verdict {
        let judge = |progress: &Progress| {
            let healthy = progress
                .waiting
                .is_none_or(|since| now.saturating_sub(since) < limit);
            // Readers take the time for a sign of life: one who has nothing to do lives as well.
            (healthy, if healthy { Some(at) } else { progress.updated })
        };
        let families: BTreeMap<_, _> = self
            .0
            .iter()
            .map(|(family, progress)| (*family, judge(progress)))
            .collect();
        Verdict {
            healthy: families.values().all(|(healthy, _)| *healthy),
            updated: families.values().filter_map(|(_, updated)| *updated).max(),
            families,
        }
    }
}

/// Whether load balancers may send traffic to a node: it is not about to go away.
pub fn node_is_eligible(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
}

/// A status and a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// JSON.
    pub body: Value,
    /// Of a Service's port: how much of its traffic this node should get.
    pub weight: Option<usize>,
}

fn status(fine: bool) -> u16 {
    if fine { 200 } else { 503 }
}

/// `/healthz`: keeps up, and the node stays.
pub fn healthz(verdict: &Verdict, eligible: bool, now: Timestamp) -> Answer {
    let mut body = body(verdict, now);
    body["nodeEligible"] = json!(eligible);
    Answer {
        status: status(verdict.healthy && eligible),
        body,
        weight: None,
    }
}

/// `/livez`: keeps up.
pub fn livez(verdict: &Verdict, now: Timestamp) -> Answer {
    Answer {
        status: status(verdict.healthy),
        body: body(verdict, now),
        weight: None,
    }
}

fn body(verdict: &Verdict, now: Timestamp) -> Value {
    // What Go's zero time looks like: readers written for it know it as "never".
    let time =
        |at: Option<Timestamp>| at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string());
    let families: serde_json::Map<String, Value> = verdict
        .families
        .iter()
        .map(|(family, (healthy, updated))| {
            let one = json!({ "lastUpdated": time(*updated), "healthy": healthy });
            (family.name().to_owned(), one)
        })
        .collect();
    json!({
        "lastUpdated": time(verdict.updated),
        "currentTime": now.to_string(),
        "healthy": verdict.healthy,
        "status": families,
    })
}

/// A Service's `healthCheckNodePort`: an endpoint is here, and the proxy keeps up.
pub fn health_check(service: &Key, local_endpoints: usize, healthy: bool) -> Answer {
    Answer {
        status: status(healthy && local_endpoints > 0),
        body: json!({
            "service": { "namespace": service.namespace, "name": service.name },
            "localEndpoints": local_endpoints,
            "serviceProxyHealthy": healthy,
        }),
        weight: Some(local_endpoints),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{NodeSpec, Taint},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn verdict(progresses: &Progresses, second: u64) -> Verdict {
        progresses.verdict(Duration::from_secs(second), at(1000 + second as i64), LIMIT)
    }

    fn both() -> Progresses {
        let mut progresses = Progresses::default();
        progresses.expect(&[Family::V4, Family::V6]);
        progresses
    }

    #[test]
    fn a_change_that_waits_too_long_makes_the_proxy_unhealthy_until_it_is_programmed() {
        let mut progresses = both();
        assert!(verdict(&progresses, 1_000_000).healthy, "nothing was asked yet");
        progresses.queued(Duration::from_secs(10));
        assert!(verdict(&progresses, 69).healthy);
        // A newer change does not make the older one younger.
        progresses.queued(Duration::from_secs(69));
        let late = verdict(&progresses, 70);
        assert!(!late.healthy);
        assert_eq!(late.updated, None, "never programmed");
        progresses.updated(at(1071));
        assert!(verdict(&progresses, 5000).healthy, "an idle proxy is healthy");
        progresses.queued(Duration::from_secs(5000));
        let late = verdict(&progresses, 5060);
        assert_eq!((late.healthy, late.updated), (false, Some(at(1071))));
    }

    #[test]
    fn a_node_that_is_about_to_go_gets_no_traffic_but_its_proxy_lives() {
        let taint = |key: &str| Taint {
            key: key.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let mut node = Node {
            spec: Some(NodeSpec {
                taints: Some(vec![taint("other")]),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        assert!(node_is_eligible(&node));
        node.spec.as_mut().expect("spec").taints = Some(vec![taint("other"), taint(TO_BE_DELETED)]);
        assert!(!node_is_eligible(&node));
        let deleted = Node {
            metadata: ObjectMeta {
                deletion_timestamp: Some(Time(at(1))),
                ..ObjectMeta::default()
            },
            ..Node::default()
        };
        assert!(!node_is_eligible(&deleted));
        let verdict = verdict(&both(), 0);
        assert_eq!(healthz(&verdict, false, at(0)).status, 503);
        assert_eq!(healthz(&verdict, true, at(0)).status, 200);
        assert_eq!(livez(&verdict, at(0)).status, 200);
    }

    #[test]
    fn the_bodies_are_those_that_readers_of_kube_proxy_know() {
        let mut progresses = both();
        progresses.queued(Duration::ZERO);
        let late = verdict(&progresses, 60);
        assert_eq!(
            healthz(&late, true, at(1060)).body,
            json!({
                "lastUpdated": "0001-01-01T00:00:00Z",
                "currentTime": "1970-01-01T00:17:40Z",
                "nodeEligible": true,
                "healthy": false,
                "status": {
                    "IPv4": { "lastUpdated": "0001-01-01T00:00:00Z", "healthy": false },
                    "IPv6": { "lastUpdated": "0001-01-01T00:00:00Z", "healthy": false },
                },
            })
        );
        let fine = verdict(&both(), 60);
        let body = livez(&fine, at(1060)).body;
        assert_eq!(
            body["lastUpdated"], "1970-01-01T00:17:40Z",
            "recent, though nothing changed"
        );
        assert!(body.get("nodeEligible").is_none());
    }

    #[test]
    fn a_services_port_says_yes_only_with_an_endpoint_and_a_proxy_that_keeps_up() {
        let key = Key::new("shop", "web");
        for (count, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503), (0, false, 503)] {
            let answer = health_check(&key, count, healthy);
            assert_eq!((answer.status, answer.weight), (status, Some(count)));
            assert_eq!(
                answer.body,
                json!({
                    "service": { "namespace": "shop", "name": "web" },
                    "localEndpoints": count,
                    "serviceProxyHealthy": healthy,
                })
            );
        }
    }
}
