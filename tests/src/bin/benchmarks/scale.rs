//! Connections per second from a pod through a ClusterIP, where 30,000 Services are programmed beside one where 10 are. Two nodes, alike but
//! for that, take turns: neither the machine's drift nor a table's state is one side's alone.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use keelson_abi::{Addr, Backend, BackendBlock, BackendKey, Frontend, FrontendKey};
use keelson_bench::{client::Kind, server::Server, stats::pairwise};
use keelson_dataplane::{Dataplane, Paths};
use keelson_tests::{
    namespace::{self, Namespace},
    node::Node,
};
use serde_json::{Value, json};

use crate::{
    binaries, node,
    plugin::Program,
    report::Measured,
    rounds::{Rounds, calm},
    traffic,
};

/// What is measured here.
pub const FIGURES: [&str; 1] = ["crr_30k_over_10_ratio"];
const PEER: &str = "the same with 10 Services";
const MANY: u32 = 30_000;
const FEW: u32 = 10;
const PORT: u16 = 9000;
const LEAST: usize = 24;
const MOST: usize = 40;
const BUDGET: std::time::Duration = std::time::Duration::from_secs(50);
const TCP: u8 = 6;

/// Measure it.
pub fn measure() -> Result<Vec<Measured>> {
    let (many, few) = (Side::new(MANY)?, Side::new(FEW)?);
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    // The first connections find cold caches, and addresses nobody has asked for yet.
    for side in [&many, &few] {
        side.rate()?;
    }
    for round in Rounds::new(LEAST, MOST, BUDGET) {
        calm()?;
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ours.push(many.rate()?);
            } else {
                peers.push(few.rate()?);
            }
        }
    }
    many.node.down()?;
    few.node.down()?;
    let ratios = pairwise(&ours, &peers);
    let (ours, peers) = (traffic::thousands(&ours), traffic::thousands(&peers));
    Ok(vec![Measured::beside(
        FIGURES[0],
        "",
        &ratios,
        PEER,
        (&ours, &peers),
        "thousand connections/s",
    )?])
}

/// A node with two pods and so many Services, the last of which the one pod serves.
struct Side {
    node: Node,
    client: Namespace,
    _server: Namespace,
    service: SocketAddr,
}

impl Side {
    fn new(services: u32) -> Result<Self> {
        let node = node(false, Vec::new())?;
        let (client, _) = pod(&node, "client")?;
        let (server, address) = pod(&node, "server")?;
        // It ends with this program.
        namespace::spawn(server.pid(), || {
            let serve = || {
                traffic::alone()?;
                Server::bind(([0, 0, 0, 0], PORT).into())?.serve()
            };
            if let Err(error) = serve() {
                eprintln!("the server in the pod: {error}");
            }
        })?;
        namespace::inside(node.namespace().pid(), move || program(services, address))?;
        Ok(Self {
            node,
            client,
            _server: server,
            service: (cluster_address(services - 1), PORT).into(),
        })
    }

    fn rate(&self) -> Result<f64> {
        traffic::rate(self.client.pid(), self.service, Kind::Crr)
    }
}

/// A pod of the node: its namespace and address.
fn pod(node: &Node, name: &'static str) -> Result<(Namespace, IpAddr)> {
    let namespace = Namespace::new(name, false, "")?;
    let anchor = namespace.pid();
    let answer = namespace::inside(node.namespace().pid(), move || {
        let path = format!("/run/netns/{name}");
        std::fs::create_dir_all("/run/netns").context("making /run/netns")?;
        std::fs::write(&path, "").with_context(|| format!("making {path}"))?;
        let status = Command::new("mount")
            .args(["--bind", &format!("/proc/{anchor}/ns/net"), &path])
            .status()
            .context("starting mount")?;
        ensure!(status.success(), "naming the namespace {path}: {status}");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "keelson", "type": "keelson-cni",
            "podCIDR": "10.244.0.0/24", "serviceCIDR": "10.96.0.0/14",
        });
        let plugin = Program::new(binaries()?.join("keelson-cni"), conf.clone());
        plugin.call("ADD", name, &conf).map(|(_, answer)| answer)
    })?;
    let answer: Value = serde_json::from_str(&answer).context("reading the plugin's answer")?;
    let address = answer["ips"][0]["address"]
        .as_str()
        .context("the pod has no address")?;
    let address = address.split('/').next().unwrap_or(address);
    Ok((namespace, address.parse()?))
}

/// Write so many Services with one endpoint each.
fn program(services: u32, server: IpAddr) -> Result<()> {
    let paths = Paths {
        bpffs: "/sys/fs/bpf".into(),
        run: "/run/keelson".into(),
    };
    let tables = Dataplane::open(&paths)?.service_tables()?;
    let slots = (0..services).map(|number| {
        let key = BackendKey {
            service: number + 1,
            revision: 1,
            block: 0,
        };
        let mut block = BackendBlock::default();
        block.slots[0] = Backend {
            addr: Addr::from(server),
            port_be: PORT.to_be(),
            flags: 0,
        };
        (key, block)
    });
    tables.backends.put(slots)?;
    let frontends = (0..services).map(|number| {
        let key = FrontendKey {
            addr: Addr::from(IpAddr::V4(cluster_address(number))),
            port_be: PORT.to_be(),
            proto: TCP,
            reserved: 0,
        };
        let frontend = Frontend {
            service: number + 1,
            revision: 1,
            generation: 1,
            count: 1,
            ..Frontend::default()
        };
        (key, frontend)
    });
    tables.frontends.put(frontends)?;
    Ok(())
}

fn cluster_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number)
}
