//! Services and EndpointSlices that nobody can serve as they stand: whatever of them is usable is programmed, and everything else stays
//! programmed.

use std::{fmt::Write, net::SocketAddr};

use anyhow::{Result, bail, ensure};
use keelson_tests::{
    load::Load,
    node::{Node, objects::READY},
    sockets::{self, at},
};

/// What must go on working: an echo server behind a Service.
const GOOD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: echo:1
    readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: good, creationTimestamp: "2020-01-01T00:00:00Z"}
spec:
  type: NodePort
  clusterIP: 10.96.20.1
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30500}
  - {name: tcp, port: 7, nodePort: 30507}
  - {name: udp, port: 7, nodePort: 30507, protocol: UDP}
"#;

/// A Service without a selector, and slices written by hand.
fn by_hand(name: &str, address: &str, slices: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {address}\n  ports: [{{name: tcp, port: 7}}]\n{slices}"
    )
}

fn slice(service: &str, number: usize, kind: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{number}\n  labels: {{kubernetes.io/service-name: {service}}}\n\
         addressType: {kind}\nports: {ports}\nendpoints: {endpoints}\n"
    )
}

const PORT: &str = "[{name: tcp, port: 7, protocol: TCP}]";

struct Rig {
    node: Node,
    pod: String,
    load: Load,
}

fn rig() -> Result<Rig> {
    let node = Node::new()?;
    node.write_manifest("good.yaml", GOOD)?;
    let pods = node.wait_ready("echo", 1)?;
    let pod = keelson_tests::node::objects::pod_ip(&pods[0])?.to_string();
    node.wait_http(at(keelson_tests::node::NODE_IP, 30500)?)?;
    let load = Load::start(node.client(), at(keelson_tests::node::NODE_IP, 30500)?)?;
    load.wait_for(5)?;
    Ok(Rig { node, pod, load })
}

impl Rig {
    /// A Service answers the host within a while.
    fn answers(&self, address: &str) -> Result<()> {
        let server: SocketAddr = at(address, 7)?;
        self.node.wait(&format!("{server} to answer"), READY, |node| {
            node.namespace().enter(move || sockets::tcp_echo(server, 5))??;
            Ok(Some(()))
        })
    }

    /// A Service is there and refuses.
    fn refuses(&self, address: &str) -> Result<()> {
        let server: SocketAddr = at(address, 7)?;
        self.node.wait(&format!("{server} to refuse"), READY, |node| {
            node.namespace().enter(move || sockets::tcp_refused(server))??;
            Ok(Some(()))
        })
    }

    /// An event says this of a Service.
    fn is_told(&self, service: &str, what: &str) -> Result<()> {
        self.node.wait(
            &format!("an event of {service} that says {what:?}"),
            READY,
            |node| {
                let events = node.keelson(&["get", "events", "-A"])?;
                let told = events
                    .lines()
                    .any(|line| line.contains(service) && line.contains(what));
                if told { Ok(Some(())) } else { bail!("{events}") }
            },
        )
    }

    /// Nothing was lost meanwhile.
    fn end(self) -> Result<()> {
        self.load.wait_for(5)?;
        self.load.stop_without_loss()?;
        self.node.down()
    }
}

#[test]
fn objects_that_cannot_be_served_are_refused_by_name_and_the_others_go_on() -> Result<()> {
    let rig = rig()?;
    let good = format!("[{{addresses: [{}]}}]", rig.pod);
    let bad = [
        (
            "address",
            slice("address", 1, "IPv4", PORT, "[{addresses: [bogus]}]"),
        ),
        (
            "family",
            slice("family", 1, "IPv4", PORT, "[{addresses: ['fd00::1']}]"),
        ),
        ("nobody", slice("nobody", 1, "IPv4", PORT, "[{addresses: []}]")),
        ("zero", slice("zero", 1, "IPv4", "[{name: tcp, port: 0}]", &good)),
        (
            "large",
            slice("large", 1, "IPv4", "[{name: tcp, port: 70000}]", &good),
        ),
        (
            "odd",
            slice("odd", 1, "IPv4", "[{name: tcp, port: 7, protocol: DCCP}]", &good),
        ),
    ];
    for (name, slices) in &bad {
        rig.node
            .write_manifest(&format!("{name}.yaml"), &by_hand(name, "10.96.20.9", slices))?;
    }
    for (name, _) in bad {
        rig.is_told(&format!("{name}.yaml"), "ManifestRefused")?;
    }
    // And what comes later is programmed, even where it is as good as nothing.
    let mut endpoints = String::from("[");
    for useless in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        write!(endpoints, "{{addresses: [{useless}]}}, ")?;
    }
    let mixed = slice(
        "mixed",
        1,
        "IPv4",
        PORT,
        &format!("{endpoints}{{addresses: [{}]}}]", rig.pod),
    );
    rig.node
        .write_manifest("mixed.yaml", &by_hand("mixed", "10.96.20.2", &mixed))?;
    for _ in 0..20 {
        rig.answers("10.96.20.2")?;
    }
    rig.is_told("mixed", "left out")?;
    let useless = slice("useless", 1, "IPv4", PORT, "[{addresses: [127.0.0.1]}]");
    rig.node
        .write_manifest("useless.yaml", &by_hand("useless", "10.96.20.3", &useless))?;
    rig.refuses("10.96.20.3")?;
    rig.end()
}

#[test]
fn a_service_of_every_kind_is_served_from_a_manifest() -> Result<()> {
    let rig = rig()?;
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: full}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.96.20.10\n  \
                selector: {app: echo}\n  externalIPs: [198.51.100.77]\n  sessionAffinity: ClientIP\n  \
                loadBalancerSourceRanges: [192.168.50.9/32]\n  ports: [{name: tcp, port: 7, nodePort: 30600}]\n\
                status:\n  loadBalancer: {ingress: [{ip: 198.51.100.1}]}\n";
    rig.node.write_manifest("full.yaml", text)?;
    rig.answers("10.96.20.10")?;
    rig.answers("198.51.100.77")?;
    rig.node.client().run(
        "ip",
        &[
            "route",
            "add",
            "198.51.100.0/24",
            "via",
            keelson_tests::node::NODE_IP,
        ],
    )?;
    let balancer = at("198.51.100.1", 7)?;
    rig.node
        .client()
        .enter(move || sockets::tcp_echo(balancer, 5))??;
    // The host is not let in; nobody says so to it.
    let host = rig.node.namespace().enter(move || {
        std::net::TcpStream::connect_timeout(&balancer, std::time::Duration::from_millis(500))
    })?;
    ensure!(
        host.as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut),
        "{host:?}"
    );
    rig.end()
}

#[test]
fn names_at_their_limits_are_served() -> Result<()> {
    let rig = rig()?;
    let (namespace, name) = ("n".repeat(63), "s".repeat(63));
    let port = "p".repeat(15);
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  clusterIP: 10.96.20.5\n  \
         ports: [{{name: {port}, port: 7}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {slice}\n  \
         namespace: {namespace}\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
         ports: [{{name: {port}, port: 7}}]\nendpoints: [{{addresses: [{pod}]}}]\n",
        slice = "x".repeat(253),
        pod = rig.pod
    );
    rig.node.write_manifest("long.yaml", &text)?;
    rig.answers("10.96.20.5")?;
    rig.end()
}

#[test]
fn of_two_services_that_claim_one_address_and_port_the_older_one_has_it() -> Result<()> {
    let rig = rig()?;
    let slices = slice("thief", 1, "IPv4", PORT, "[{addresses: [10.244.0.250]}]");
    let thief = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: thief, creationTimestamp: \"2021-01-01T00:00:00Z\"}}\nspec:\n  \
         clusterIP: 10.96.20.6\n  externalIPs: [10.96.20.1]\n  ports: [{{name: tcp, port: 7}}]\n{slices}"
    );
    rig.node.write_manifest("thief.yaml", &thief)?;
    rig.is_told("thief", "good")?;
    for _ in 0..10 {
        rig.answers("10.96.20.1")?;
    }
    rig.end()
}

#[test]
fn a_service_with_very_many_endpoints_serves_and_the_others_go_on() -> Result<()> {
    let long = std::env::var_os("KEELSON_TEST_LONG").is_some();
    let count = if long { 100_000 } else { 10_000 };
    let rig = rig()?;
    // Only the one here answers; the policy leads to it.
    let mut text = "apiVersion: v1\nkind: Service\nmetadata: {name: crowd}\nspec:\n  clusterIP: 10.96.20.7\n  internalTrafficPolicy: Local\n  \
                    ports: [{name: tcp, port: 7}]\n"
        .to_owned();
    text += &slice(
        "crowd",
        0,
        "IPv4",
        PORT,
        &format!("[{{addresses: [{}], nodeName: node-1}}]", rig.pod),
    );
    for number in 0..count / 1000 {
        let endpoints: Vec<String> = (0..1000)
            .map(|index| {
                let [_, b, c, d] = u32::to_be_bytes((number * 1000 + index) as u32);
                format!("{{addresses: [11.{b}.{c}.{d}], nodeName: far}}")
            })
            .collect();
        text += &slice(
            "crowd",
            number + 1,
            "IPv4",
            PORT,
            &format!("[{}]", endpoints.join(", ")),
        );
    }
    let begun = std::time::Instant::now();
    rig.node.write_manifest("crowd.yaml", &text)?;
    rig.answers("10.96.20.7")?;
    println!(
        "{count} endpoints: the Service answers after {:?}",
        begun.elapsed()
    );
    rig.answers("10.96.20.1")?;
    // Another Service is programmed as before.
    let later = slice(
        "later",
        1,
        "IPv4",
        PORT,
        &format!("[{{addresses: [{}]}}]", rig.pod),
    );
    rig.node
        .write_manifest("later.yaml", &by_hand("later", "10.96.20.8", &later))?;
    rig.answers("10.96.20.8")?;
    ensure!(
        rig.node.keelson(&["get", "services"])?.contains("crowd"),
        "it is listed"
    );
    rig.end()
}
