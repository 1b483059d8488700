//! The verifier's gate.

use keelson_dataplane::abi::{BLOCK_EGRESS, BLOCK_INGRESS, PROGRAMS};

use crate::topology::Topology;

#[test]
fn the_verifier_accepts_every_program_and_every_hook_runs_its_own() {
    // Building the topology loads each program through the verifier and attaches it.
    let t = Topology::new();
    let pinned =
        t.with(|dataplane| PROGRAMS.map(|name| (name, dataplane.generation().program(name).exists())));
    assert_eq!(pinned, PROGRAMS.map(|name| (name, true)));
    for (block, program) in [(BLOCK_INGRESS, "pod_ingress"), (BLOCK_EGRESS, "pod_egress")] {
        let filters = t.node.must(&format!("tc filter show block {block}"));
        assert!(filters.contains(program), "{filters}");
    }
}
