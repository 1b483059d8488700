//! Pods and traffic outlive the agent, and the agent outlives the runtime.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::{
    load::Load,
    namespace::Namespace,
    node::{
        Node,
        objects::{READY, is_ready, name},
    },
    wait,
};
use serde_json::Value;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: echo:1
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: echo, port: 7}
"#;

/// What identifies a pod's container and its life.
fn identity(pods: &[Value]) -> Vec<String> {
    let mut all: Vec<String> = pods
        .iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            format!(
                "{} {} {} {}",
                name(pod),
                pod["metadata"]["uid"],
                status["containerID"],
                status["restartCount"]
            )
        })
        .collect();
    all.sort();
    all
}

fn rig() -> Result<(Node, Vec<Value>)> {
    let node = Node::new()?;
    node.write_manifest("web.yaml", WEB)?;
    let pods = node.wait_ready("web", 2)?;
    node.wait_http(node.node_port("web")?)?;
    Ok((node, pods))
}

#[test]
fn killing_the_agent_under_traffic_loses_no_connection_and_restarts_nothing() -> Result<()> {
    let (mut node, pods) = rig()?;
    let address = node.node_port("web")?;
    let echo = node.object("services", "web")?["spec"]["ports"][1]["nodePort"]
        .as_u64()
        .context("no port")?;
    let echo = format!("{}:{echo}", keelson_tests::node::NODE_IP);
    let mut held = node.client().enter(move || -> Result<TcpStream> {
        let stream = TcpStream::connect(echo)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    })??;
    let mut exchange = || -> Result<()> {
        held.write_all(b"still there?")?;
        let mut back = [0; 12];
        held.read_exact(&mut back)?;
        ensure!(&back == b"still there?");
        Ok(())
    };
    exchange()?;
    let load = Load::start(node.client(), address)?;
    load.wait_for(20)?;
    let before = node.pods("web")?;
    node.kill_agent()?;
    load.wait_for(50)?;
    exchange().context("while no agent runs")?;
    node.start_agent()?;
    // Right after its return the status is what it was: nothing flaps.
    let back = node.pods("web")?;
    ensure!(
        identity(&back) == identity(&pods),
        "before {:?}, after {:?}",
        identity(&pods),
        identity(&back)
    );
    ensure!(
        back.iter().all(is_ready),
        "a pod is not ready right after the agent's return: {back:?}"
    );
    // All of it: addresses, times, conditions, containers.
    let statuses = |pods: &[Value]| -> BTreeMap<String, Value> {
        pods.iter()
            .map(|pod| (name(pod).to_owned(), pod["status"].clone()))
            .collect()
    };
    ensure!(
        statuses(&back) == statuses(&before),
        "before {:#?}, after {:#?}",
        statuses(&before),
        statuses(&back)
    );
    node.wait_ready("web", 2)?;
    load.wait_for(50)?;
    exchange().context("after the agent's return")?;
    load.stop_without_loss()?;
    ensure!(
        identity(&node.pods("web")?) == identity(&pods),
        "something was restarted later"
    );
    node.down()
}

/// Connections that are held for a long time, each asked now and then.
struct Held(Vec<TcpStream>);

impl Held {
    /// So many to a TCP echo server, from a namespace.
    fn open(from: &Namespace, to: SocketAddr, count: usize) -> Result<Self> {
        from.enter(move || -> Result<Self> {
            let mut streams = Vec::with_capacity(count);
            for number in 0..count {
                let stream =
                    TcpStream::connect(to).with_context(|| format!("connection {number} to {to}"))?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            Ok(Self(streams))
        })?
    }

    /// Every one answers, and none waits for the second repetition of a lost packet.
    fn all_answer(&mut self) -> Result<()> {
        for (number, stream) in self.0.iter_mut().enumerate() {
            let begun = Instant::now();
            let mut back = [0; 4];
            stream
                .write_all(b"ping")
                .and_then(|()| stream.read_exact(&mut back))
                .with_context(|| format!("connection {number} is lost"))?;
            ensure!(
                begun.elapsed() < Duration::from_secs(1),
                "connection {number} took {:?}",
                begun.elapsed()
            );
        }
        Ok(())
    }
}

#[test]
fn killing_the_agent_again_and_again_loses_no_connection() -> Result<()> {
    let long = std::env::var_os("KEELSON_TEST_LONG").is_some();
    let (kills, connections) = if long { (100, 1000) } else { (10, 200) };
    let (mut node, pods) = rig()?;
    let inside = SocketAddr::new(node.cluster_address("web")?.ip(), 7);
    let echo = node.object("services", "web")?["spec"]["ports"][1]["nodePort"]
        .as_u64()
        .context("no port")?;
    let outside = format!("{}:{echo}", keelson_tests::node::NODE_IP).parse()?;
    let mut held = [
        Held::open(node.client(), outside, connections / 2)?,
        Held::open(node.namespace(), inside, connections / 2)?,
    ];
    let load = Load::start(node.client(), node.node_port("web")?)?;
    load.wait_for(10)?;
    for kill in 0..kills {
        node.kill_agent()?;
        for held in &mut held {
            held.all_answer().with_context(|| format!("after kill {kill}"))?;
        }
        // Every other one dies again before it is through with what it begins with, each time a little later.
        if kill % 2 == 0 {
            node.begin_agent()?;
            std::thread::sleep(Duration::from_millis(7 * (kill as u64 % 40)));
        } else {
            node.start_agent()?;
        }
        for held in &mut held {
            held.all_answer().with_context(|| format!("after start {kill}"))?;
        }
    }
    node.kill_agent()?;
    node.start_agent()?;
    node.wait_ready("web", 2)?;
    for held in &mut held {
        held.all_answer().context("at the end")?;
    }
    load.wait_for(10)?;
    let answered = load.stop_without_loss()?;
    println!("{kills} kills under {connections} connections and {answered} requests: none lost");
    ensure!(
        identity(&node.pods("web")?) == identity(&pods),
        "something was restarted"
    );
    node.down()
}

#[test]
fn what_happened_while_the_agent_was_away_is_put_right() -> Result<()> {
    let (mut node, pods) = rig()?;
    let (gone, stays) = (&pods[0], &pods[1]);
    node.stop_agent()?;
    // One pod is deleted by hand through the runtime, another one is made.
    let sandbox_of = |uid: &str| -> Result<String> {
        let filter =
            format!("labels.\"io.kubernetes.pod.uid\"=={uid},labels.\"io.cri-containerd.kind\"==sandbox");
        Ok(node
            .ctr(&["containers", "list", "-q", &filter])?
            .trim()
            .to_owned())
    };
    let uid = gone["metadata"]["uid"].as_str().context("no uid")?;
    let sandbox = sandbox_of(uid)?;
    let stranger = keelson_tests::cri::block_on(&node, move |mut runtime| async move {
        runtime.stop_sandbox(&sandbox).await?;
        runtime.remove_sandbox(&sandbox).await?;
        runtime
            .run_sandbox("stranger", "00000000-dead-beef-0000-000000000001")
            .await
    })?;
    ensure!(
        node.ctr(&["tasks", "list"])?.contains(&stranger),
        "the stranger runs"
    );
    node.start_agent()?;
    node.wait("the stranger to go", READY, |node| {
        Ok((!node.ctr(&["tasks", "list"])?.contains(&stranger)).then_some(()))
    })?;
    let now = node.wait_ready("web", 2)?;
    let kept: Vec<&Value> = now.iter().filter(|pod| name(pod) == name(stays)).collect();
    ensure!(
        kept.len() == 1 && identity(&[kept[0].clone()]) == identity(std::slice::from_ref(stays)),
        "the other pod was touched"
    );
    node.wait_http(node.node_port("web")?)?;
    node.down()
}

#[test]
fn a_restart_of_containerd_is_named_and_survived() -> Result<()> {
    let (mut node, pods) = rig()?;
    let address = node.node_port("web")?;
    let load = Load::start(node.client(), address)?;
    load.wait_for(10)?;
    node.kill_containerd()?;
    node.wait("the node to say that it is not ready, and why", READY, |node| {
        let object = node.list("nodes")?;
        let conditions = object[0]["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        let ready = conditions
            .iter()
            .find(|condition| condition["type"] == "Ready")
            .context("no Ready")?;
        if ready["status"] == "False" && ready["message"].as_str().unwrap_or_default().contains("runtime") {
            return Ok(Some(()));
        }
        bail!("{ready}")
    })?;
    load.wait_for(20)?;
    node.start_containerd()?;
    node.wait("the node to be ready again", READY, |node| {
        Ok(is_ready(&node.list("nodes")?[0]).then_some(()))
    })?;
    node.wait_ready("web", 2)?;
    load.stop_without_loss()?;
    ensure!(
        identity(&node.pods("web")?) == identity(&pods),
        "a container was restarted"
    );
    // And the agent goes on: a pod is ended and replaced.
    node.keelson(&["delete", "pod", name(&pods[0])])?;
    let now = node.wait_ready("web", 2)?;
    ensure!(
        now.iter().all(|pod| name(pod) != name(&pods[0])),
        "the deleted pod is still there"
    );
    node.down()
}

#[test]
fn a_node_that_is_taken_down_leaves_nothing() -> Result<()> {
    let (node, _) = rig()?;
    let cgroup = node.cgroup().path().to_owned();
    let folder = node.folder().to_owned();
    let processes = node.cgroup().processes();
    let namespaces = namespaces_of(&processes)?;
    let before: Vec<String> = node
        .run("ls", &["/sys/fs/bpf/keelson"])?
        .lines()
        .map(str::to_owned)
        .collect();
    ensure!(
        before.iter().any(|pin| pin == "current"),
        "the programs are pinned in the node's own bpffs: {before:?}"
    );
    ensure!(
        processes.len() > 4,
        "containerd, agent, shims and pods run: {processes:?}"
    );
    node.down()?;
    let here = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!here.contains("keelson-test"), "a mount stayed");
    ensure!(!folder.exists(), "{} stayed", folder.display());
    for root in here
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
    {
        let path = std::path::Path::new(root).join(&cgroup[1..]);
        ensure!(!path.exists(), "cgroup {} stayed", path.display());
    }
    // A namespace that nothing holds is gone, and with it its devices, its bpffs and all pins.
    let alive: Vec<i32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let held = namespaces_of(&alive)?;
    ensure!(
        held.is_disjoint(&namespaces),
        "somebody holds a namespace of the node"
    );
    ensure!(
        !std::path::Path::new("/sys/fs/bpf/keelson").exists(),
        "a pin is in the machine's own bpffs"
    );
    wait::holds("every process of the node to be gone", READY, || {
        Ok(processes
            .iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists()))
    })
}

/// Network and mount namespaces of processes, without those of the machine itself.
fn namespaces_of(processes: &[i32]) -> Result<std::collections::BTreeSet<std::path::PathBuf>> {
    let of = |process: &str, kind: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}"));
    let own = [of("self", "net")?, of("self", "mnt")?];
    let all = processes
        .iter()
        .flat_map(|pid| ["net", "mnt"].map(|kind| of(&pid.to_string(), kind)));
    // A process that has just ended has none.
    Ok(all
        .flatten()
        .filter(|namespace| !own.contains(namespace))
        .collect())
}
