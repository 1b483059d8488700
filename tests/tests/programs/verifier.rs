//! The verifier's gate.

use crate::topology::Topology;

#[test]
fn the_verifier_accepts_every_program_and_every_hook_gets_one() {
    // Loading goes through the verifier, attaching through the hooks: building the topology does both.
    let topology = Topology::new();
    let filters = topology.node.must("tc filter show block 1801781249");
    assert!(filters.contains("pod_ingress"), "{filters}");
}
