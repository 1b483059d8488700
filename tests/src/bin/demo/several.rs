//! The demo on several connected nodes: the first runs it, and every node serves it under its own NodePort.

use anyhow::{Context, Result, ensure};
use keelson_tests::node::{Node, Options, cluster::Cluster};
use serde_json::{Value, json};

use crate::{
    state::{Remains, State},
    story::{self, APP, say},
};

/// Show it, and leave the nodes running.
pub fn up(count: u8) -> Result<()> {
    say(&format!(
        "{count} nodes on one network, each with a containerd and an agent of its own"
    ));
    let options = Options {
        images: vec!["nginx"],
        name: Some("keelson-demo".to_owned()),
        ..Options::default()
    };
    let cluster = Cluster::start(count, &options)?;
    let first = cluster.nodes.first().context("at least one node")?;
    let address = story::tell(first)?;
    say("every node is told of the others by KeelsonPeer documents in its folder of manifests");
    cluster.meet()?;
    print!("{}", first.keelson(&["get", "peers"])?);
    for other in &cluster.nodes[1..] {
        serve(first, other)?;
        let address = other.node_port(APP)?;
        say(&format!(
            "the page, fetched by way of {} from {address}",
            other.place().name()
        ));
        let page = other.wait_http(address)?;
        ensure!(
            page.contains("It runs."),
            "this is not the page of the ConfigMap: {page}"
        );
    }
    let port = story::forward(first, address)?;
    let remains = |node: &Node| Remains {
        cgroup: node.cgroup().path().to_owned(),
        folder: Some(node.folder().to_owned()),
    };
    let between = Remains {
        cgroup: cluster.cgroup().path().to_owned(),
        folder: None,
    };
    let state = State {
        pid: first.namespace().pid(),
        cgroup: first.cgroup().path().to_owned(),
        folder: first.folder().to_owned(),
        port,
        also: cluster.nodes[1..].iter().map(remains).chain([between]).collect(),
    };
    state.save()?;
    cluster.keep();
    story::what_next(&state);
    Ok(())
}

/// The first node's Service on another node: the same addresses, and its endpoints as they are now.
fn serve(first: &Node, other: &Node) -> Result<()> {
    let service = first.object("services", APP)?;
    let spec = &service["spec"];
    let mut text = serde_json::to_string(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": APP },
        "spec": { "type": "NodePort", "clusterIP": spec["clusterIP"], "ports": spec["ports"] },
    }))?;
    let of_service = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == APP;
    for slice in first.list("endpointslices")?.into_iter().filter(of_service) {
        let copy = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": slice["metadata"]["name"], "labels": { "kubernetes.io/service-name": APP } },
            "addressType": slice["addressType"], "ports": slice["ports"], "endpoints": slice["endpoints"],
        });
        text += &format!("\n---\n{copy}");
    }
    other.write_manifest("web.yaml", &text)
}
