//! Several nodes with agents of their own, told of each other by manifests: pods, Services, hosts and a client outside, over every
//! node. (Every mode, family and MTU is held on the programs' rung.)

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use keelson_tests::{
    http,
    node::{Node, Options, Place, cluster::Cluster, objects::pod_ip},
    sockets,
};
use serde_json::Value;

/// A pod, and behind the same address and port on every node a Service whose endpoints stand in slices written by hand.
fn manifest(place: Place) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: echo-{number}, labels: {{app: echo}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: echo:1
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}}}
"#,
        number = place.number
    )
}

fn service(name: &str, policy: &str, ip: &str, node_port: u16, endpoint: &str, node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  externalTrafficPolicy: {policy}
  clusterIP: {ip}
  ports:
  - {{name: http, port: 80, targetPort: 8080, nodePort: {node_port}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
- {{addresses: ["{endpoint}"], nodeName: {node}, conditions: {{ready: true}}}}
---
"#
    )
}

/// Who asked, as the server at `to` saw it.
fn seen_by(to: SocketAddr) -> Result<IpAddr> {
    let (status, body) = http::get(to, "/")?;
    ensure!(status == 200, "{to}: {status}: {body}");
    let body: Value = serde_json::from_str(&body).with_context(|| format!("{to}: {body}"))?;
    let client = body["client"]
        .as_str()
        .with_context(|| format!("no client in {body}"))?;
    let client: SocketAddr = client.parse()?;
    Ok(client.ip())
}

#[test]
fn pods_and_services_are_reached_on_every_node_directly_and_through_the_tunnel() -> Result<()> {
    let place = |number, network| Place { number, network };
    let options = Options {
        images: vec!["echo"],
        config: "podRouting: crossSubnet\n".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_at(&[place(1, 50), place(2, 50), place(3, 60)], &options)?;
    cluster.meet()?;
    let mut pods = Vec::new();
    for node in &cluster.nodes {
        node.write_manifest("echo.yaml", &manifest(node.place()))?;
    }
    for node in &cluster.nodes {
        pods.push(node.wait_ready("echo", 1)?.remove(0));
    }
    for (peer, way) in [("node-2", "Direct"), ("node-3", "Tunnel")] {
        let peer = cluster.nodes[0].object("peers", peer)?;
        ensure!(peer["status"]["routes"][0]["way"] == way, "{peer}");
    }
    // The third pod, behind every node.
    let far: IpAddr = pod_ip(&pods[2])?;
    for node in &cluster.nodes {
        let endpoint = far.to_string();
        let text = service("far", "Cluster", "10.96.20.1", 30080, &endpoint, "node-3")
            + &service("near", "Local", "10.96.20.2", 30081, &endpoint, "node-3");
        node.write_manifest("services.yaml", &text)?;
    }
    for node in &cluster.nodes {
        node.wait_http(SocketAddr::from((node.address(), 30080)))?;
    }
    let far = SocketAddr::new(far, 8080);
    for (node, pod) in cluster.nodes.iter().zip(&pods).take(2) {
        let own: IpAddr = pod_ip(pod)?;
        let among_pods = IpAddr::from([10, 244, node.place().number - 1, 1]);
        let vip = SocketAddr::from(([10, 96, 20, 1], 80));
        for to in [far, vip] {
            let seen = node.in_pod(pod, move || seen_by(to))??;
            ensure!(seen == own, "{to} saw {seen}, not the pod {own}");
            let seen = node.namespace().enter(move || seen_by(to))??;
            ensure!(seen == among_pods, "{to} saw {seen}, not {among_pods}");
        }
        // Much, in both directions.
        node.in_pod(pod, move || {
            sockets::tcp_echo(SocketAddr::new(far.ip(), 7), 3_000_000)
        })??;
    }
    // Outside, by a node that has no endpoint: masqueraded with the Cluster policy, silent with the Local one.
    outside(&cluster, &cluster.nodes[0], Ipv4Addr::new(10, 244, 0, 1).into())?;
    let direct = SocketAddr::new(pod_ip(&pods[1])?, 8080);
    let own: IpAddr = pod_ip(&pods[0])?;
    let seen = cluster.nodes[0].in_pod(&pods[0], move || seen_by(direct))??;
    ensure!(seen == own, "{direct} saw {seen}");
    leaving(&cluster, &pods, far)?;
    cluster.down()
}

fn outside(cluster: &Cluster, node: &Node, masqueraded: IpAddr) -> Result<()> {
    let at = |node: &Node, port| SocketAddr::from((node.address(), port));
    let to = at(node, 30080);
    let seen = cluster.outside().enter(move || seen_by(to))??;
    ensure!(seen == masqueraded, "{to} saw {seen}");
    let local = at(&cluster.nodes[2], 30081);
    let seen = cluster.outside().enter(move || seen_by(local))??;
    ensure!(
        seen == IpAddr::from([192, 168, 60, 9]),
        "{local} saw {seen}, not the client itself"
    );
    let elsewhere = at(node, 30081);
    let answer = cluster.outside().enter(move || seen_by(elsewhere))?;
    ensure!(
        answer.is_err(),
        "{elsewhere} has no endpoint and answered {answer:?}"
    );
    Ok(())
}

/// A peer that is taken out of the manifests is not reached any more; all the others are. It comes back.
fn leaving(cluster: &Cluster, pods: &[Value], far: SocketAddr) -> Result<()> {
    let node = &cluster.nodes[0];
    let routes = || node.run("ip", &["route", "show", "proto", "107"]);
    let near = SocketAddr::new(pod_ip(&pods[1])?, 8080);
    let others: String = cluster.nodes[..2]
        .iter()
        .map(|node| keelson_tests::node::cluster::peer(node.place()))
        .collect();
    node.write_manifest("peers.yaml", &others)?;
    node.wait("the route to go", keelson_tests::node::START, |_| {
        Ok((!routes()?.contains("10.244.2.0/24")).then_some(()))
    })?;
    ensure!(routes()?.contains("10.244.1.0/24"), "{}", routes()?);
    node.in_pod(&pods[0], move || seen_by(near))??;
    cluster.meet()?;
    node.in_pod(&pods[0], move || seen_by(far))??;
    // What somebody else takes away comes back.
    node.run("ip", &["route", "flush", "proto", "107", "10.244.0.0/16"])?;
    node.wait("the routes to be back", keelson_tests::node::START, |_| {
        let routes = routes()?;
        Ok((routes.contains("10.244.1.0/24") && routes.contains("10.244.2.0/24")).then_some(()))
    })?;
    node.in_pod(&pods[0], move || seen_by(far))??;
    Ok(())
}
