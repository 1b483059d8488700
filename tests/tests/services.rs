//! Every path of a packet on a real node: pods, Services, the host, a client outside; TCP, UDP and ICMP.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use keelson_tests::{
    http,
    node::{
        CLIENT_IP, NODE_IP, Node, OUTSIDE_IP,
        objects::{name, pod_ip},
    },
    sockets::{self, at},
};
use serde_json::Value;

/// Two echo pods behind `echo`, one on the host's network behind `hosted`, and `nobody` without an endpoint.
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: echo:1
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Pod
metadata: {name: hosted, labels: {app: hosted}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: echo:1
    args: ["--http", "9080", "--tcp", "9007", "--udp", "9007"]
    readinessProbe: {httpGet: {path: /healthz, port: 9080}}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  clusterIP: 10.96.10.1
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: tcp, port: 7, nodePort: 30007}
  - {name: udp, port: 7, nodePort: 30007, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  clusterIP: 10.96.10.4
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30380}
---
apiVersion: v1
kind: Service
metadata: {name: hosted}
spec:
  type: NodePort
  clusterIP: 10.96.10.2
  selector: {app: hosted}
  ports:
  - {name: http, port: 80, targetPort: 9080, nodePort: 30180}
  - {name: tcp, port: 7, targetPort: 9007, nodePort: 30107}
  - {name: udp, port: 7, targetPort: 9007, nodePort: 30107, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  type: NodePort
  clusterIP: 10.96.10.3
  selector: {app: nobody}
  ports:
  - {name: tcp, port: 7, nodePort: 30207}
  - {name: udp, port: 7, nodePort: 30207, protocol: UDP}
"#;

const CLUSTER: &str = "10.96.10.1";
const HOSTED: &str = "10.96.10.2";
const NOBODY: &str = "10.96.10.3";

struct Rig {
    node: Node,
    pods: Vec<Value>,
}

fn rig() -> Result<Rig> {
    let node = Node::new()?;
    node.write_manifest("echo.yaml", MANIFEST)?;
    let pods = node.wait_ready("echo", 2)?;
    node.wait_ready("hosted", 1)?;
    // The maps follow readiness; the client's first answer shows that they have.
    node.wait_http(at(NODE_IP, 30180)?)?;
    node.wait_http(at(NODE_IP, 30080)?)?;
    Ok(Rig { node, pods })
}

impl Rig {
    fn by_pod(&self, action: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.node.in_pod(&self.pods[0], action)?
    }
    fn by_host(&self, action: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.node.namespace().enter(action)?
    }
    fn by_client(&self, action: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.node.client().enter(action)?
    }
}

/// Which pod answered, and whom it saw.
fn seen(server: SocketAddr) -> Result<(String, IpAddr)> {
    let (status, body) = http::get(server, "/")?;
    ensure!(status == 200, "{server} answered {status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let client: SocketAddr = answer["client"].as_str().context("no client")?.parse()?;
    Ok((answer["pod"].as_str().unwrap_or_default().to_owned(), client.ip()))
}

#[test]
fn pods_reach_each_other_directly() -> Result<()> {
    let rig = rig()?;
    let (mine, other) = (pod_ip(&rig.pods[0])?, pod_ip(&rig.pods[1])?);
    rig.by_pod(move || {
        sockets::echo(SocketAddr::new(other, 7))?;
        let (_, client) = seen(SocketAddr::new(other, 8080))?;
        ensure!(client == mine, "the server saw {client}, not {mine}");
        Ok(())
    })?;
    rig.node.ping_from_pod(&rig.pods[0], &other.to_string())?;
    rig.node.down()
}

#[test]
fn a_pod_reaches_a_service_and_keeps_its_address_even_when_it_reaches_itself() -> Result<()> {
    let rig = rig()?;
    let (mine, own_name) = (pod_ip(&rig.pods[0])?, name(&rig.pods[0]).to_owned());
    rig.by_pod(move || {
        sockets::echo(at(CLUSTER, 7)?)?;
        // Chosen at random: of forty tries both pods take some.
        let mut hairpin = 0;
        for _ in 0..40 {
            let (server, client) = seen(at(CLUSTER, 80)?)?;
            if server == own_name {
                hairpin += 1;
            } else {
                ensure!(client == mine, "the other pod saw {client}, not {mine}");
            }
        }
        ensure!(
            (1..40).contains(&hairpin),
            "{hairpin} of 40 requests reached the pod itself"
        );
        for _ in 0..20 {
            sockets::udp_echo(at(CLUSTER, 7)?, 32)?;
        }
        Ok(())
    })?;
    rig.node.down()
}

#[test]
fn the_host_reaches_a_service_its_own_node_port_and_127_0_0_1() -> Result<()> {
    let rig = rig()?;
    rig.by_host(|| {
        for server in [at(CLUSTER, 7)?, at(NODE_IP, 30007)?, at("127.0.0.1", 30007)?] {
            for _ in 0..6 {
                sockets::echo(server).with_context(|| format!("host → {server}"))?;
            }
        }
        for server in [at(CLUSTER, 80)?, at(NODE_IP, 30080)?, at("127.0.0.1", 30080)?] {
            seen(server).with_context(|| format!("host → {server}"))?;
        }
        Ok(())
    })?;
    rig.node.down()
}

#[test]
fn a_client_outside_is_seen_with_its_own_address_where_the_policy_is_local() -> Result<()> {
    let rig = rig()?;
    rig.node.wait_http(at(NODE_IP, 30380)?)?;
    rig.by_client(|| {
        sockets::echo(at(NODE_IP, 30007)?)?;
        let (_, client) = seen(at(NODE_IP, 30080)?)?;
        ensure!(
            client.to_string() == NODE_IP,
            "policy Cluster: the pod saw {client}"
        );
        let (_, client) = seen(at(NODE_IP, 30380)?)?;
        ensure!(
            client.to_string() == CLIENT_IP,
            "policy Local: the pod saw {client}"
        );
        Ok(())
    })?;
    rig.node.down()
}

#[test]
fn what_would_happen_to_a_pods_packet_is_told_as_it_happens() -> Result<()> {
    let rig = rig()?;
    let pod = name(&rig.pods[0]).to_owned();
    let mine = pod_ip(&rig.pods[0])?;
    let asked = |arguments: &[&str]| -> Result<Value> {
        let mut all = vec!["explain"];
        all.extend(arguments);
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&rig.node.keelson(&all)?)?)
    };
    let from = format!("default/{pod}");
    let service = format!("{CLUSTER}:80");
    let told = asked(&[&service, "--from", "pod", &from])?;
    ensure!(
        told["service"]["name"] == "echo" && told["service"]["entry"] == "ClusterIP",
        "{told}"
    );
    let candidates = told["candidates"].as_array().context("no candidates")?;
    let pods: Vec<&str> = candidates.iter().filter_map(|one| one["pod"].as_str()).collect();
    ensure!(pods.len() == 2 && pods.contains(&from.as_str()), "{told}");
    let endpoint = told["endpoint"]["address"].as_str().context("no endpoint")?;
    ensure!(told["after"]["destination"] == endpoint, "{told}");
    // The pod keeps its address, unless it reaches itself.
    let source: SocketAddr = told["after"]["source"].as_str().context("no source")?.parse()?;
    let itself = endpoint.parse::<SocketAddr>()?.ip() == mine;
    ensure!((source.ip() == mine) != itself, "{told}");
    // By its source alone the pod is found as well; outside it is seen with the node's address.
    let told = asked(&[&mine.to_string(), &format!("{OUTSIDE_IP}:80")])?;
    ensure!(
        told["from"].as_str().is_some_and(|from| from.contains(&pod)),
        "{told}"
    );
    let source = told["after"]["source"].as_str().context("no source")?;
    ensure!(source.starts_with(NODE_IP), "{told}");
    let told = asked(&[
        CLIENT_IP,
        &format!("{NODE_IP}:30380"),
        "--from",
        "interface",
        "up0",
    ])?;
    let policy = told["reasons"].to_string();
    ensure!(policy.contains("externalTrafficPolicy Local"), "{told}");
    ensure!(
        told["after"]["source"]
            .as_str()
            .is_some_and(|source| source.starts_with(CLIENT_IP)),
        "{told}"
    );
    rig.node.down()
}

#[test]
fn a_pod_reaches_the_nodes_node_port() -> Result<()> {
    let rig = rig()?;
    rig.by_pod(|| {
        for _ in 0..6 {
            sockets::echo(at(NODE_IP, 30007)?)?;
        }
        seen(at(NODE_IP, 30080)?).map(drop)
    })?;
    rig.node.down()
}

#[test]
fn an_endpoint_on_the_hosts_network_is_reached_from_everywhere() -> Result<()> {
    let rig = rig()?;
    let mine = pod_ip(&rig.pods[0])?;
    rig.by_pod(move || {
        sockets::echo(at(HOSTED, 7)?).context("pod → Service")?;
        sockets::echo(at(NODE_IP, 30107)?).context("pod → NodePort")?;
        let (_, client) = seen(at(HOSTED, 80)?)?;
        ensure!(client == mine, "the endpoint saw {client}, not {mine}");
        Ok(())
    })?;
    rig.by_host(|| {
        sockets::echo(at(HOSTED, 7)?).context("host → Service")?;
        sockets::echo(at(NODE_IP, 30107)?).context("host → NodePort")?;
        sockets::echo(at("127.0.0.1", 30107)?).context("host → 127.0.0.1")
    })?;
    rig.by_client(|| {
        sockets::echo(at(NODE_IP, 30107)?).context("client → NodePort")?;
        let (_, client) = seen(at(NODE_IP, 30180)?)?;
        ensure!(client.to_string() == CLIENT_IP, "the endpoint saw {client}");
        Ok(())
    })?;
    rig.node.down()
}

#[test]
fn a_pod_that_leaves_is_seen_with_the_nodes_address_and_gets_its_answers() -> Result<()> {
    let rig = rig()?;
    let (tell, told) = std::sync::mpsc::channel();
    let servers = rig.node.client().spawn(move || -> Result<()> {
        let tcp = std::net::TcpListener::bind((OUTSIDE_IP, 7000))?;
        let udp = std::net::UdpSocket::bind((OUTSIDE_IP, 7000))?;
        tell.send(())?;
        let (mut stream, peer) = tcp.accept()?;
        ensure!(peer.ip().to_string() == NODE_IP, "outside saw {peer}");
        let mut bytes = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut bytes)?;
        std::io::Write::write_all(&mut stream, &bytes)?;
        let (length, peer) = udp.recv_from(&mut bytes)?;
        ensure!(peer.ip().to_string() == NODE_IP, "outside saw {peer}");
        udp.send_to(&bytes[..length], peer)?;
        Ok(())
    })?;
    told.recv()?;
    rig.by_pod(|| {
        sockets::tcp_echo(at(OUTSIDE_IP, 7000)?, 5)?;
        sockets::udp_echo(at(OUTSIDE_IP, 7000)?, 5)
    })?;
    servers
        .join()
        .map_err(|_| anyhow::anyhow!("the servers panicked"))??;
    rig.node.ping_from_pod(&rig.pods[0], OUTSIDE_IP)?;
    rig.node.down()
}

#[test]
fn an_icmp_error_from_outside_reaches_the_pod_that_caused_it() -> Result<()> {
    let rig = rig()?;
    // Nothing listens there: the client's kernel answers port unreachable, to the translated source.
    rig.by_pod(|| sockets::udp_refused(at(OUTSIDE_IP, 7999)?))?;
    rig.node.down()
}

#[test]
fn unknown_ports_and_services_without_endpoints_refuse_at_once() -> Result<()> {
    let rig = rig()?;
    let refusals = || -> Result<()> {
        for port in [7, 12345] {
            sockets::tcp_refused(at(NOBODY, port)?).with_context(|| format!("TCP port {port}"))?;
            sockets::udp_refused(at(NOBODY, port)?).with_context(|| format!("UDP port {port}"))?;
        }
        sockets::tcp_refused(at(CLUSTER, 12345)?)?;
        sockets::tcp_refused(at(NODE_IP, 30207)?).context("NodePort")?;
        sockets::udp_refused(at(NODE_IP, 30207)?).context("NodePort")
    };
    rig.by_pod(refusals).context("from a pod")?;
    rig.by_host(refusals).context("from the host")?;
    rig.by_client(|| {
        sockets::tcp_refused(at(NODE_IP, 30207)?)?;
        sockets::udp_refused(at(NODE_IP, 30207)?)
    })
    .context("from outside")?;
    rig.node.down()
}

#[test]
fn a_pod_cannot_send_with_an_address_that_is_not_its_own() -> Result<()> {
    let rig = rig()?;
    let other = pod_ip(&rig.pods[1])?;
    let target = format!("--target={}", rig.node.pod_pid(&rig.pods[0])?);
    let in_pod = |words: &[&str]| {
        rig.node
            .run("nsenter", &[&[&target, "--net", "--"], words].concat())
    };
    in_pod(&["ip", "addr", "add", "10.244.0.99/32", "dev", "eth0"])?;
    // The other pod tells whom it heard: nobody of that address, but the pod under its own.
    let heard = std::net::SocketAddr::new(other, 7100);
    let listener = rig.node.pod_pid(&rig.pods[1])?;
    let (tell, told) = std::sync::mpsc::channel();
    let listening = keelson_tests::namespace::spawn(listener, move || -> Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(heard)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        tell.send(())?;
        Ok(socket.recv_from(&mut [0; 16])?.1.ip())
    })?;
    told.recv()?;
    rig.by_pod(move || {
        for source in ["10.244.0.99", "0.0.0.0"] {
            std::net::UdpSocket::bind((source, 0))?.send_to(b"hello", heard)?;
        }
        Ok(())
    })?;
    let first = listening
        .join()
        .map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    ensure!(
        first == pod_ip(&rig.pods[0])?,
        "the other pod heard {first} first"
    );
    rig.node.down()
}
