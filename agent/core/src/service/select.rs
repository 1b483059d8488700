//! Which endpoints of a Service port serve: ready ones; where none is ready, those that terminate and still serve.

use std::net::IpAddr;

/// One endpoint of a Service port, conditions with their defaults applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Ready for new connections.
    pub ready: bool,
    /// Serves, ready or not (a terminating endpoint may).
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// Node names of its topology hints.
    pub node_hints: Vec<String>,
    /// Zones of its topology hints.
    pub zone_hints: Vec<String>,
}

/// The node that chooses.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone, where it has one.
    pub zone: Option<&'a str>,
}

/// What a traffic policy chooses from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For the Cluster policy.
    pub cluster: Vec<Endpoint>,
    /// For the Local policy.
    pub local: Vec<Endpoint>,
    /// Whether the Service has a usable endpoint on any node: decides refusing against dropping.
    pub anywhere: bool,
}

/// Sort endpoints by how they may be used.
pub fn categorize(endpoints: &[Endpoint], place: Place<'_>) -> Choice {
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    let fallback: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|endpoint| endpoint.serving && endpoint.terminating)
        .collect();
    let near = by_topology(&ready, place);
    // Topology is not applied to the fallback: any endpoint that still serves is better than none.
    let cluster = if near.is_empty() { fallback.clone() } else { near };
    let ready_local: Vec<&Endpoint> = ready.iter().copied().filter(|endpoint| endpoint.local).collect();
    let local = if ready_local.is_empty() {
        fallback
            .iter()
            .copied()
            .filter(|endpoint| endpoint.local)
            .collect()
    } else {
        ready_local
    };
    Choice {
        anywhere: !ready.is_empty() || !fallback.is_empty(),
        cluster: cluster.into_iter().cloned().collect(),
        local: local.into_iter().cloned().collect(),
    }
}

/// Hints count only where every ready endpoint has one and at least one names this place: a half-written set of hints
/// would leave endpoints without traffic.
fn by_topology<'a>(ready: &[&'a Endpoint], place: Place<'_>) -> Vec<&'a Endpoint> {
    let all_have =
        |hints: fn(&Endpoint) -> &[String]| !ready.is_empty() && ready.iter().all(|e| !hints(e).is_empty());
    let named = |hints: fn(&Endpoint) -> &[String], name: &str| -> Vec<&'a Endpoint> {
        ready
            .iter()
            .copied()
            .filter(|endpoint| hints(endpoint).iter().any(|hint| hint == name))
            .collect()
    };
    if all_have(|e| &e.node_hints) {
        let here = named(|e| &e.node_hints, place.node);
        if !here.is_empty() {
            return here;
        }
    }
    if let Some(zone) = place.zone
        && all_have(|e| &e.zone_hints)
    {
        let here = named(|e| &e.zone_hints, zone);
        if !here.is_empty() {
            return here;
        }
    }
    ready.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place {
        node: "n1",
        zone: Some("z1"),
    };

    fn endpoint(last: u8) -> Endpoint {
        Endpoint {
            address: IpAddr::from([10, 244, 0, last]),
            port: 80,
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            node_hints: Vec::new(),
            zone_hints: Vec::new(),
        }
    }
    fn leaving(last: u8) -> Endpoint {
        Endpoint {
            ready: false,
            terminating: true,
            ..endpoint(last)
        }
    }
    fn addresses(endpoints: &[Endpoint]) -> Vec<u8> {
        endpoints
            .iter()
            .map(|e| {
                if let IpAddr::V4(ip) = e.address {
                    ip.octets()[3]
                } else {
                    0
                }
            })
            .collect()
    }

    #[test]
    fn ready_endpoints_are_preferred_to_terminating_ones() {
        let choice = categorize(&[endpoint(1), leaving(2)], HERE);
        assert_eq!(addresses(&choice.cluster), [1]);
    }

    #[test]
    fn the_last_serving_endpoint_is_used_while_it_terminates() {
        let choice = categorize(
            &[
                leaving(2),
                Endpoint {
                    serving: false,
                    ..leaving(3)
                },
            ],
            HERE,
        );
        assert_eq!(addresses(&choice.cluster), [2]);
        assert!(choice.anywhere);
    }

    #[test]
    fn an_endpoint_that_is_not_ready_is_not_used() {
        let choice = categorize(
            &[Endpoint {
                ready: false,
                serving: false,
                ..endpoint(1)
            }],
            HERE,
        );
        assert_eq!(choice, Choice::default());
    }

    #[test]
    fn the_local_set_falls_back_on_its_own() {
        let local_leaving = Endpoint {
            local: true,
            ..leaving(2)
        };
        let choice = categorize(&[endpoint(1), local_leaving], HERE);
        assert_eq!(addresses(&choice.cluster), [1]);
        assert_eq!(addresses(&choice.local), [2]);
    }

    #[test]
    fn zone_hints_count_only_where_every_ready_endpoint_has_one() {
        let hinted = |last, zone: &str| Endpoint {
            zone_hints: vec![zone.into()],
            ..endpoint(last)
        };
        let near = categorize(&[hinted(1, "z1"), hinted(2, "z2")], HERE);
        assert_eq!(addresses(&near.cluster), [1]);
        let half = categorize(&[hinted(1, "z1"), endpoint(2)], HERE);
        assert_eq!(addresses(&half.cluster), [1, 2]);
        let elsewhere = categorize(&[hinted(1, "z3"), hinted(2, "z2")], HERE);
        assert_eq!(addresses(&elsewhere.cluster), [1, 2]);
    }

    #[test]
    fn node_hints_win_over_zone_hints() {
        let hinted = |last, node: &str| Endpoint {
            node_hints: vec![node.into()],
            zone_hints: vec!["z1".into()],
            ..endpoint(last)
        };
        let choice = categorize(&[hinted(1, "n1"), hinted(2, "n2")], HERE);
        assert_eq!(addresses(&choice.cluster), [1]);
    }
}
