//! `keelson proxy` as a process of its own: configured by kube-proxy's file, asked by HTTP and by its command line, and gone
//! without a trace.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use keelson_dataplane::{Dataplane, Paths};
use keelson_tests::{
    binaries, http,
    namespace::{self, Namespace},
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LIMIT: Duration = Duration::from_secs(20);
const NODE: &str = "192.168.60.1";

/// An endpoint outside the node, which answers at 8080: the client's namespace.
const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.1.1
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [192.168.60.9]}]
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: a}}
";

const CONFIG: &str = "
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: node-1
mode: nftables
conntrack: {maxPerCore: 32768}
clusterCIDR: 10.244.0.0/16
";

/// A node's namespaces, a client beside it, and at most one proxy.
struct Bench {
    node: Namespace,
    client: Namespace,
    folder: PathBuf,
    proxy: Option<Child>,
    server: Option<Child>,
}

impl Bench {
    fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("keelson-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("manifests"))?;
        let node = Namespace::new("proxy", true, "mount -t tmpfs tmpfs /run;")?;
        let client = Namespace::new("client", false, "")?;
        node.wire("up0", &client, "c0")?;
        node.sh(&format!(
            "ip addr add {NODE}/24 dev up0; ip route add default via 192.168.60.9"
        ))?;
        client.sh("ip addr add 192.168.60.9/24 dev c0")?;
        let mut bench = Self {
            node,
            client,
            folder,
            proxy: None,
            server: None,
        };
        let echo = binaries::find("keelson-echo")?;
        let echo = echo.to_string_lossy();
        let mut server = bench.client.command(&echo);
        server.args(["--http", "8080", "--tcp", "8007", "--udp", "8007"]);
        bench.server = Some(server.process_group(0).stdout(Stdio::null()).spawn()?);
        Ok(bench)
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Arguments that keep all state of this node to itself.
    fn places(&self) -> Vec<String> {
        let manifests = self.folder.join("manifests");
        ["--run=/run/keelson", "--bpf=/run/bpf"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("--manifests={}", manifests.display())])
            .collect()
    }

    fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let keelson = binaries::find("keelson")?;
        let log = File::create(self.folder.join("log"))?;
        let mut command = self.node.command(&keelson.to_string_lossy());
        command.arg("proxy").args(self.places()).args(arguments);
        let command = command.process_group(0).stdin(Stdio::null());
        self.proxy = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut proxy) = self.proxy.take() {
            kill(Pid::from_raw(proxy.id().cast_signed()), Signal::SIGTERM)?;
            let status = proxy.wait()?;
            ensure!(status.success(), "{status}: {}", self.log());
        }
        Ok(())
    }

    fn keelson(&self, arguments: &[&str]) -> Result<String> {
        let keelson = binaries::find("keelson")?;
        let mut all = vec!["--socket=/run/keelson/keelson.sock"];
        all.extend(arguments);
        self.node.run(&keelson.to_string_lossy(), &all)
    }

    fn get(&self, address: &str, path: &'static str) -> Result<(u16, String)> {
        let address: SocketAddr = address.parse()?;
        self.node.enter(move || http::get(address, path))?
    }

    fn outside(&self, address: &str, path: &'static str) -> Result<(u16, String)> {
        let address: SocketAddr = address.parse()?;
        self.client.enter(move || http::get(address, path))?
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What a clean-up must leave as it found it.
    fn trace(&self) -> Result<String> {
        self.node.sh(
            "ip -o link | grep -v 'up0' ; ip route; ip -6 route | grep -v fe80 || true; ip neigh show nud permanent; \
             for key in accept_local route_localnet forwarding; do \
             cat /proc/sys/net/ipv4/conf/lo/$key /proc/sys/net/ipv4/conf/up0/$key; done; \
             cat /proc/sys/net/ipv4/ip_local_reserved_ports; tc filter show dev up0 ingress; tc filter show dev lo egress; \
             ls /run/bpf/keelson 2>/dev/null || true",
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for mut child in self.proxy.take().into_iter().chain(self.server.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn services_of_a_folder_are_carried_and_told_of_and_cleaned_up_without_a_trace() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.node.sh("mkdir -p /run/bpf")?;
    let before = bench.trace()?;
    bench.file("manifests/web.yaml", MANIFEST)?;
    let config = bench.file("config.yaml", CONFIG)?;
    bench.start(&["--config", &config])?;
    let asked = wait::until("an answer of the Service", LIMIT, || {
        bench.outside("192.168.60.1:30080", "/").map(Some)
    });
    asked.with_context(|| bench.log())?;
    // A process of the host, too.
    ensure!(bench.get("10.96.1.1:80", "/")?.0 == 200);

    answered(&bench)?;
    explained(&bench)?;
    shown(&bench)?;

    // While it runs it would make everything again.
    let busy = cleanup(&bench).expect_err("refused").to_string();
    ensure!(busy.contains("stop it first"), "{busy}");
    bench.stop()?;
    ensure!(
        bench.outside("192.168.60.1:30080", "/")?.0 == 200,
        "traffic goes on without the agent"
    );
    let told = cleanup(&bench)?;
    ensure!(told.contains("removed") && told.contains("set back"), "{told}");
    let after = bench.trace()?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    ensure!(bench.outside("192.168.60.1:30080", "/").is_err());
    ensure!(cleanup(&bench)?.contains("nothing was loaded"));
    Ok(())
}

/// Health, metrics, and what the log noted of the configuration.
fn answered(bench: &Bench) -> Result<()> {
    for (address, path, expected) in [
        ("192.168.60.1:10256", "/healthz", "\"nodeEligible\":true"),
        ("127.0.0.1:10256", "/livez", "\"healthy\":true"),
        ("127.0.0.1:10249", "/proxyMode", "ebpf"),
        ("127.0.0.1:10249", "/metrics", "# EOF"),
    ] {
        let (status, body) = bench.get(address, path)?;
        ensure!(
            status == 200 && body.contains(expected),
            "{path}: {status} {body}"
        );
    }
    let noted = bench.log();
    ensure!(
        !noted.contains("only counted"),
        "the ring of drops is read: {noted}"
    );
    for note in ["mode: nftables", "conntrack.maxPerCore"] {
        ensure!(noted.contains(note), "{note} is not in {noted}");
    }

    let metrics = bench.get("127.0.0.1:10249", "/metrics")?.1;
    for series in [
        "keelson_map_entries{map=\"frontend\"}",
        "keelson_map_capacity{map=\"flow\"}",
        "keelson_drops_total{reason=\"NoEndpoint\"}",
        "keelson_flows_total{event=\"new\"}",
    ] {
        ensure!(metrics.contains(series), "{series} in {metrics}");
    }
    ensure!(
        !metrics.contains("keelson_map_entries{map=\"frontend\"} 0\n"),
        "{metrics}"
    );
    Ok(())
}

/// What the command line shows of Services and the node.
fn shown(bench: &Bench) -> Result<()> {
    ensure!(bench.keelson(&["get", "services"])?.contains("10.96.1.1"));
    let wide = bench.keelson(&["get", "services", "-o", "wide"])?;
    for cell in ["PROGRAMMED", "ClusterIP:1,NodePort:1", "1 (0 local)", "Cluster"] {
        ensure!(wide.contains(cell), "{cell:?} in {wide}");
    }
    let page = bench.keelson(&["describe", "service", "web"])?;
    let line = "192.168.60.1:30080/TCP  NodePort, policy Cluster: 1 endpoints, 0 on this node";
    ensure!(page.contains(line), "{page}");
    ensure!(
        bench
            .keelson(&["get", "endpointslices"])?
            .contains("192.168.60.9")
    );
    ensure!(bench.keelson(&["describe", "node", "node-1"])?.contains("zone"));
    let node = bench.keelson(&["get", "nodes", "--show-labels"])?;
    ensure!(node.contains("node-1") && node.contains("zone=a"), "{node}");
    let refused = bench
        .keelson(&["get", "pods"])
        .expect_err("there are none")
        .to_string();
    ensure!(refused.contains("keelson proxy"), "{refused}");
    ensure!(bench.keelson(&["check", "--proxy"])?.contains("socket hooks"));
    Ok(())
}

/// Everything that the programs know, but for what a dry run writes.
fn state(bench: &Bench) -> Result<String> {
    namespace::inside(bench.node.pid(), || {
        let paths = Paths {
            bpffs: "/run/bpf".into(),
            run: "/run/keelson".into(),
        };
        let dataplane = Dataplane::open(&paths)?;
        let mut flows = dataplane.flows()?;
        flows.sort_by_key(|(key, _)| format!("{key:?}"));
        Ok(format!(
            "{flows:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            dataplane.frontends()?,
            dataplane.backends()?,
            dataplane.counters()?,
            dataplane.node()?
        ))
    })
}

/// What would happen is told as it happens, from every place, and nothing is left of the telling.
fn explained(bench: &Bench) -> Result<()> {
    let before = state(bench)?;
    let asked: [(&[&str], &[&str]); 6] = [
        (
            &["192.168.60.9:5000", "192.168.60.1:30080"],
            &[
                "From:        outside, by device up0",
                "NodePort 192.168.60.1:30080/TCP of Service default/web, port http",
                "Endpoint:    192.168.60.9:8080",
                "externalTrafficPolicy Cluster",
                "sent out by device up0",
            ],
        ),
        (
            &["10.96.1.1:80"],
            &[
                "by keelson0",
                "ClusterIP 10.96.1.1:80/TCP of Service default/web",
                "the only endpoint",
            ],
        ),
        (
            &["127.0.0.1:30080"],
            &["by lo and keelson1", "NodePort", "Endpoint:    192.168.60.9:8080"],
        ),
        (
            &["10.96.1.1:81", "--from", "host"],
            &["refused with a reset: the Service has no such port"],
        ),
        (
            &[
                "192.168.60.9",
                "10.96.1.9:53",
                "-p",
                "udp",
                "--from",
                "interface",
                "up0",
            ],
            &["dropped in silence: nobody has this address"],
        ),
        (
            &["192.168.60.9", "192.168.60.1:22"],
            &["passed to the stack as it is", "no Service is asked"],
        ),
    ];
    for (question, answers) in asked {
        let mut arguments = vec!["explain"];
        arguments.extend(question);
        let page = bench.keelson(&arguments)?;
        for answer in answers {
            ensure!(page.contains(answer), "{question:?}: {answer:?} in\n{page}");
        }
    }
    let json = bench.keelson(&["explain", "10.96.1.1:80", "-o", "json"])?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(json["after"]["destination"] == "192.168.60.9:8080", "{json}");
    ensure!(json["service"]["entry"] == "ClusterIP", "{json}");
    let after = state(bench)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

fn cleanup(bench: &Bench) -> Result<String> {
    let places = bench.places();
    let mut arguments = vec!["proxy", "--cleanup"];
    arguments.extend(places.iter().map(String::as_str));
    bench.keelson(&arguments)
}

#[test]
fn a_taint_that_tells_of_the_nodes_end_takes_it_out_of_load_balancers() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.file("manifests/web.yaml", MANIFEST)?;
    let config = bench.file("config.yaml", CONFIG)?;
    bench.start(&["--config", &config])?;
    let status = |wanted: u16| {
        wait::holds("the status of /healthz", LIMIT, || {
            Ok(bench.get("127.0.0.1:10256", "/healthz")?.0 == wanted)
        })
    };
    status(200).with_context(|| bench.log())?;
    let tainted = format!(
        "{MANIFEST}spec: {{taints: [{{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}]}}\n"
    );
    bench.file("manifests/web.yaml", &tainted)?;
    status(503)?;
    ensure!(bench.get("127.0.0.1:10256", "/livez")?.0 == 200);
    bench.stop()
}

#[test]
fn a_configuration_that_cannot_be_followed_is_refused_before_anything_is_done() -> Result<()> {
    let mut bench = Bench::new()?;
    let config = bench.file(
        "config.yaml",
        &format!("{CONFIG}clientConnection: {{kubeconfig: /k}}\n"),
    )?;
    bench.start(&["--config", &config])?;
    let status = bench.proxy.take().context("started")?.wait()?;
    ensure!(!status.success());
    ensure!(
        bench.log().contains("clientConnection.kubeconfig"),
        "{}",
        bench.log()
    );
    ensure!(bench.node.run("ip", &["link", "show", "keelson0"]).is_err());
    ensure!(!Path::new("/run/bpf/keelson").exists());
    Ok(())
}
