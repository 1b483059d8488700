//! The test node itself, and what the agent's absence and return do to pods.

use anyhow::Result;
use keelson_tests::{
    cri,
    node::{Node, Options},
};

#[test]
fn a_node_without_an_agent_has_its_own_containerd_and_leaves_nothing() -> Result<()> {
    let node = Node::start(Options {
        agent: false,
        ..Options::default()
    })?;
    assert!(node.ctr(&["images", "list"])?.contains("REF"));
    assert!(node.run("ip", &["-o", "link"])?.contains("up0"));
    let cgroup = node.cgroup().path().to_owned();
    node.down()?;
    let left = std::fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!left.contains("keelson-test"), "{left}");
    let hierarchies = left.lines().filter(|line| line.contains(" - cgroup"));
    for root in hierarchies.filter_map(|line| line.split(' ').nth(4)) {
        let path = std::path::Path::new(root).join(&cgroup[1..]);
        assert!(!path.exists(), "{} stayed", path.display());
    }
    Ok(())
}

#[test]
fn a_pod_is_run_by_hand_where_no_agent_is() -> Result<()> {
    let node = Node::start(Options {
        agent: false,
        images: vec!["busybox"],
        ..Options::default()
    })?;
    let (sandbox, container) = cri::block_on(&node, |mut runtime| async move {
        runtime.on_host_network();
        let (name, uid) = ("by-hand", "00000000-0000-0000-0000-000000000001");
        let sandbox = runtime.run_sandbox(name, uid).await?;
        let container = runtime
            .run_container(&sandbox, name, uid, "busybox:1", &["sleep", "1000"])
            .await?;
        Ok((sandbox, container))
    })?;
    let tasks = node.ctr(&["tasks", "list"])?;
    assert!(tasks.contains(&sandbox) && tasks.contains(&container), "{tasks}");
    // All of it is below the node's cgroup, and on the node's network.
    let pid: u32 = tasks
        .lines()
        .find(|line| line.starts_with(&container))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .expect("the container's process");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert!(groups.contains(node.cgroup().path()), "{groups}");
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/ns/net"))?,
        std::fs::read_link(format!("/proc/{}/ns/net", node.namespace().pid()))?
    );
    node.down()
}
