//! Clusters and packets at random, which shrink to the smallest that still fails.
//!
//! The pools are small, so that addresses meet: two Services claim one address, an endpoint stands in two slices, a client is
//! an endpoint itself.

mod ask;
mod objects;

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

pub use ask::{Ask, Target, Who};

use super::Cluster;

/// Packets asked of each cluster, on average.
pub const ASKS: usize = 24;

/// The addresses that exist where packets are sent for real; any other would be as good for tables.
pub mod places {
    /// The node's own: IPv4 first, the one it is known by before its other one.
    pub const NODE: [&str; 4] = ["192.168.50.1", "172.20.0.1", "fd00:c0:a8:32::1", "fd00:ac:14::1"];
    /// Pods of the node.
    pub const PODS: [&str; 6] = [
        "10.244.1.11",
        "10.244.1.12",
        "10.244.1.13",
        "fd00:a:f4:1::b",
        "fd00:a:f4:1::c",
        "fd00:a:f4:1::d",
    ];
    /// Pods of another node.
    pub const REMOTE_PODS: [&str; 4] = ["10.244.2.11", "10.244.2.12", "fd00:a:f4:2::b", "fd00:a:f4:2::c"];
    /// The other node.
    pub const OTHER_NODE: [&str; 2] = ["192.168.50.2", "fd00:c0:a8:32::2"];
    /// Clients that are neither pods nor nodes.
    pub const OUTSIDE: [&str; 4] = [
        "192.168.50.9",
        "203.0.113.7",
        "fd00:c0:a8:32::9",
        "fd00:cb:0:71::7",
    ];
    /// Cluster addresses, and one that no Service has.
    pub const CLUSTER_IPS: [&str; 6] = [
        "10.96.0.10",
        "10.96.0.11",
        "10.96.0.12",
        "fd00:a:60::a",
        "fd00:a:60::b",
        "fd00:a:60::c",
    ];
    /// Of the Service networks, but nobody's.
    pub const UNALLOCATED: [&str; 2] = ["10.96.77.77", "fd00:a:60:4d::4d"];
    /// Addresses of load balancers, and external ones.
    pub const EXTERNAL: [&str; 6] = [
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.77",
        "fd00:c6:33:64::1",
        "fd00:c6:33:64::2",
        "fd00:c6:33:64::4d",
    ];
}

/// A cluster of the kind that tests with IPv4 alone take: nothing in it needs IPv6 to be reachable.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    objects::cluster()
}

/// Changes of a cluster, one after the other.
pub fn clusters(most: usize) -> impl Strategy<Value = Vec<Cluster>> {
    proptest::collection::vec(objects::cluster(), 1..most)
}

/// The address of a text of ours.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

/// How many cases a test runs: `KEELSON_CASES`, else many in the long form of the suite and few in the usual one.
pub fn cases(usual: usize, long: usize) -> usize {
    let asked = std::env::var("KEELSON_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(if std::env::var_os("KEELSON_TEST_LONG").is_some() {
        long
    } else {
        usual
    })
}

/// Hold every cluster and its packets against a test; the first that fails is made as small as it can be and printed with the seed
/// that brings it back.
pub fn check<S: Strategy>(
    name: &str,
    cases: usize,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), String>,
) -> Result<(), String>
where
    S::Value: std::fmt::Debug,
{
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64)
    };
    let given = std::env::var("KEELSON_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    check_of_seed(name, given.unwrap_or_else(now), cases, strategy, test)
}

/// As [`check`], of a given seed.
fn check_of_seed<S: Strategy>(
    name: &str,
    seed: u64,
    cases: usize,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), String>,
) -> Result<(), String>
where
    S::Value: std::fmt::Debug,
{
    println!("{name}: {cases} cases of seed {seed}; KEELSON_SEED={seed} brings them back");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(cases).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(strategy, |value| test(value).map_err(TestCaseError::fail));
    outcome.map_err(|error| match error {
        TestError::Fail(reason, smallest) => {
            format!("{name}, seed {seed}: {reason}\nthe smallest case: {smallest:?}")
        }
        TestError::Abort(reason) => format!("{name}, seed {seed}: {reason}"),
    })
}

/// Clusters with packets, together as many as asked for.
pub fn check_packets(
    name: &str,
    packets: usize,
    test: impl Fn(&Cluster, &[Ask]) -> Result<(), String>,
) -> Result<(), String> {
    // The packets of a cluster are a random number around the usual one: enough clusters to have them together.
    let cases = (packets + packets / 6).div_ceil(ASKS);
    let asked = std::cell::Cell::new(0);
    let counted = |(cluster, asks): (Cluster, Vec<Ask>)| {
        asked.set(asked.get() + asks.len());
        test(&cluster, &asks)
    };
    check(name, cases, &cluster_and_packets(), counted)?;
    println!("{name}: {} packets", asked.get());
    if asked.get() < packets {
        return Err(format!(
            "{name}: only {} of {packets} packets were asked",
            asked.get()
        ));
    }
    Ok(())
}

fn cluster_and_packets() -> impl Strategy<Value = (Cluster, Vec<Ask>)> {
    (cluster(), proptest::collection::vec(ask::ask(), 1..2 * ASKS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oracle::{Masquerade, Verdict};

    /// What a packet is, and what comes of it.
    fn kind(cluster: &Cluster, ask: &Ask) -> [String; 3] {
        let packet = ask.packet(cluster);
        let verdict = match cluster.verdict(&packet) {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Reject => "reject".into(),
            Verdict::Drop => "drop".into(),
            Verdict::Translate(to) => {
                let has = |mark| to.values().any(|value| *value == mark);
                let (hairpin, hidden) = (has(Masquerade::Hairpin), has(Masquerade::Yes));
                format!("translate {} {hairpin} {hidden}", to.len().min(3))
            }
        };
        let family = if packet.to.is_ipv6() { 6 } else { 4 };
        [
            format!("{:?} of {:?} in {family}", ask.target, packet.source.place),
            format!("{:?} by {}: {verdict}", ask.target, packet.protocol.name()),
            verdict,
        ]
    }

    #[test]
    fn every_kind_of_verdict_and_way_in_comes_up() {
        let seen = std::cell::RefCell::new(BTreeSet::new());
        check_of_seed(
            "what comes up",
            1,
            500,
            &cluster_and_packets(),
            |(cluster, asks)| {
                seen.borrow_mut()
                    .extend(asks.iter().flat_map(|ask| kind(&cluster, ask)));
                Ok(())
            },
        )
        .expect("nothing fails here");
        let seen = seen.into_inner();
        let places = ["Pod", "RemotePod", "Host", "Outside"];
        let targets = [
            "ClusterIp",
            "NodePort",
            "LoadBalancer",
            "ExternalIp",
            "WrongPort",
            "Unallocated",
            "Direct",
            "Loopback",
        ];
        let crossed = targets
            .iter()
            .flat_map(|target| places.map(|place| format!("{target} of {place} in 4")));
        let others = [
            "pass",
            "reject",
            "drop",
            "translate 3 false true",
            "translate 3 true true",
            "translate 1 false false",
            "ClusterIp of Pod in 6",
            "NodePort by UDP: translate 2 false true",
            "ClusterIp by SCTP: translate 1 false false",
        ];
        for case in crossed.chain(others.map(Into::into)) {
            assert!(seen.contains(&case), "{case} never came up");
        }
    }
}
