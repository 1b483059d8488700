//! The test node itself, and what the agent's absence and return do to pods.

use anyhow::Result;
use keelson_tests::node::{Node, Options};

#[test]
fn a_node_without_an_agent_has_its_own_containerd_and_leaves_nothing() -> Result<()> {
    let node = Node::start(Options { agent: false, ..Options::default() })?;
    assert!(node.ctr(&["images", "list"])?.contains("REF"));
    assert!(node.run("ip", &["-o", "link"])?.contains("up0"));
    let cgroup = node.cgroup().path().to_owned();
    node.down()?;
    let left = std::fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!left.contains("keelson-test"), "{left}");
    assert!(!std::path::Path::new("/sys/fs/cgroup/memory").join(&cgroup[1..]).exists());
    Ok(())
}
