//! What a client notices of changes: nothing.

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::{
    load::{Connections, Load},
    node::{
        Node,
        objects::{READY, is_ready, name},
    },
};
use serde_json::Value;

/// A Deployment whose pods take a second to leave, as applications do that clients are connected to.
fn manifest(version: &str, strategy: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  strategy: {strategy}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web, version: "{version}"}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: echo:1
        env: [{{name: VERSION, value: "{version}"}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

fn of_version<'a>(pods: &'a [Value], version: &str) -> Vec<&'a Value> {
    pods.iter()
        .filter(|pod| pod["metadata"]["labels"]["version"] == version)
        .collect()
}

fn wait_version(node: &Node, version: &str) -> Result<()> {
    node.wait(&format!("both pods to be of version {version}"), READY, |node| {
        let pods = node.pods("web")?;
        let new = of_version(&pods, version);
        if new.len() == 2 && pods.len() == 2 && pods.iter().all(is_ready) {
            return Ok(Some(()));
        }
        bail!("{}", node.keelson(&["get", "pods", "-A"])?)
    })
}

const ROLLING: &str = "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}";

/// As [`manifest`], but the server itself takes a second to leave, as one does that drains: it accepts whoever does not know yet.
fn draining(version: &str) -> String {
    manifest(version, ROLLING).replace(
        "        lifecycle: {preStop: {sleep: {seconds: 1}}}",
        "        args: [\"--drain\", \"1000\"]",
    )
}

/// Exchange all pods under load from the client and from the node itself, over new and over kept connections: nothing is lost.
fn update_under_load(first: &str, second: &str) -> Result<()> {
    let node = Node::new()?;
    node.write_manifest("web.yaml", first)?;
    node.wait_ready("web", 2)?;
    let address = node.node_port("web")?;
    node.wait_http(address)?;
    let inside = node.cluster_address("web")?;
    let loads = [
        (
            "client, new connections",
            node.client(),
            address,
            Connections::New,
        ),
        (
            "client, kept connections",
            node.client(),
            address,
            Connections::Kept,
        ),
        (
            "host, new connections",
            node.namespace(),
            inside,
            Connections::New,
        ),
        (
            "host, kept connections",
            node.namespace(),
            inside,
            Connections::Kept,
        ),
    ];
    let mut started = Vec::new();
    for (name, namespace, address, connections) in loads {
        started.push((name, Load::start_with(namespace, address, connections)?));
    }
    for (_, load) in &started {
        load.wait_for(20)?;
    }
    node.write_manifest("web.yaml", second)?;
    wait_version(&node, "2")?;
    for (_, load) in &started {
        load.wait_for(20)?;
    }
    for (name, load) in started {
        let answered = load.stop_without_loss().with_context(|| name.to_owned())?;
        ensure!(answered >= 40, "{name}: only {answered} requests were asked");
    }
    node.down()
}

#[test]
fn a_rolling_update_loses_no_request_over_new_and_kept_connections() -> Result<()> {
    update_under_load(&manifest("1", ROLLING), &manifest("2", ROLLING))
}

#[test]
fn a_rolling_update_of_servers_that_drain_loses_no_request() -> Result<()> {
    update_under_load(&draining("1"), &draining("2"))
}

#[test]
fn a_rolling_update_loses_no_request_even_if_the_agent_is_killed_in_the_middle() -> Result<()> {
    let mut node = Node::new()?;
    node.write_manifest("web.yaml", &manifest("1", ROLLING))?;
    node.wait_ready("web", 2)?;
    let address = node.node_port("web")?;
    node.wait_http(address)?;
    let load = Load::start(node.client(), address)?;
    load.wait_for(20)?;
    node.write_manifest("web.yaml", &manifest("2", ROLLING))?;
    node.wait("an old pod to be told to end", READY, |node| {
        let terminating = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        Ok(node.list("pods")?.iter().any(terminating).then_some(()))
    })?;
    node.kill_agent()?;
    load.wait_for(20)?;
    node.start_agent()?;
    wait_version(&node, "2")?;
    load.wait_for(20)?;
    load.stop_without_loss()?;
    node.down()
}

#[test]
fn recreate_ends_the_old_pods_before_it_starts_new_ones() -> Result<()> {
    let node = Node::new()?;
    node.write_manifest("web.yaml", &manifest("1", "{type: Recreate}"))?;
    node.wait_ready("web", 2)?;
    node.write_manifest("web.yaml", &manifest("2", "{type: Recreate}"))?;
    let mut mixed = Vec::new();
    node.wait("the new pods", READY, |node| {
        let pods: Vec<Value> = node.list("pods")?;
        let (old, new) = (of_version(&pods, "1"), of_version(&pods, "2"));
        let running = |pod: &&&Value| pod["status"]["phase"] == "Running";
        if old.iter().any(|pod| running(&pod)) && new.iter().any(|pod| running(&pod)) {
            mixed.push(pods.iter().map(|pod| name(pod).to_owned()).collect::<Vec<_>>());
        }
        Ok((new.len() == 2 && old.is_empty() && pods.iter().all(is_ready)).then_some(()))
    })?;
    ensure!(mixed.is_empty(), "old and new ran at once: {mixed:?}");
    node.down()
}

#[test]
fn deleting_a_pod_under_load_loses_no_request_and_it_is_replaced() -> Result<()> {
    let node = Node::new()?;
    node.write_manifest("web.yaml", &manifest("1", "{type: RollingUpdate}"))?;
    let pods = node.wait_ready("web", 2)?;
    let address = node.node_port("web")?;
    node.wait_http(address)?;
    let load = Load::start(node.client(), address)?;
    load.wait_for(10)?;
    let gone = name(&pods[0]).to_owned();
    node.keelson(&["delete", "pod", &gone])?;
    let now = node.wait_ready("web", 2)?;
    ensure!(now.iter().all(|pod| name(pod) != gone), "{gone} is still there");
    load.wait_for(10)?;
    load.stop_without_loss()?;
    node.down()
}

#[test]
fn a_failing_readiness_probe_takes_the_pod_out_of_the_service_and_back() -> Result<()> {
    let node = Node::new()?;
    node.write_manifest("web.yaml", &manifest("1", "{type: RollingUpdate}"))?;
    let pods = node.wait_ready("web", 2)?;
    let address = node.node_port("web")?;
    let sick = name(&pods[0]).to_owned();
    let answering = |node: &Node| -> Result<std::collections::BTreeSet<String>> {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..24 {
            let body = node.wait_http(address)?;
            let answer: Value = serde_json::from_str(&body)?;
            names.insert(answer["pod"].as_str().unwrap_or_default().to_owned());
        }
        Ok(names)
    };
    ensure!(answering(&node)?.len() == 2, "both answer at first");
    let switch = |path: &'static str| -> Result<()> {
        let (status, _) = node.in_pod(&pods[0], move || {
            keelson_tests::http::request(([127, 0, 0, 1], 8080).into(), "POST", path)
        })??;
        ensure!(status == 200, "{path} answered {status}");
        Ok(())
    };
    switch("/fail")?;
    node.wait_pod(&sick, "to be unready", |pod| !is_ready(pod))?;
    node.wait("the sick pod to get no traffic", READY, |node| {
        Ok((!answering(node)?.contains(&sick)).then_some(()))
    })?;
    let restarts = node.object("pods", &sick)?["status"]["containerStatuses"][0]["restartCount"].clone();
    ensure!(
        restarts == 0,
        "an unready pod is not restarted, but its count is {restarts}"
    );
    switch("/ok")?;
    node.wait_pod(&sick, "to be ready again", is_ready)?;
    node.wait("the pod to get traffic again", READY, |node| {
        Ok(answering(node)?.contains(&sick).then_some(()))
    })?;
    node.down()
}
