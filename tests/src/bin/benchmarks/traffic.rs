//! TCP request/response from a pod through a ClusterIP, beside the same pod's direct connection. Both ends run on one processor: across two of
//! them, waking an idle one takes longer than everything the network does.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use keelson_bench::{
    client::{self, Kind, Load},
    server::Server,
    stats::pairwise,
};
use keelson_tests::{
    namespace,
    node::{
        START,
        objects::{name, pod_ip},
    },
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    node,
    report::Measured,
    rounds::{Rounds, ahead, calm},
};

/// What is measured here.
pub const FIGURES: [&str; 1] = ["rr_clusterip_over_direct_ratio"];
const PEER: &str = "pod→pod direct";
const PORT: u16 = 9000;
const RUN: Duration = Duration::from_millis(250);
const LEAST: usize = 24;
const MOST: usize = 40;
const BUDGET: Duration = Duration::from_secs(50);

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {role: server}
  ports: [{port: 9000, targetPort: 9000}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: load, role: server}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1", command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: load, role: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1", command: [sleep, "1000"]}]
"#;

/// Measure it.
pub fn measure() -> Result<Vec<Measured>> {
    let node = node(true, vec!["busybox"])?;
    node.write_manifest("load.yaml", MANIFEST)?;
    let pods = node.wait_ready("load", 2)?;
    let pod = |wanted: &str| {
        let found = pods.iter().find(|pod| name(pod) == wanted);
        found.with_context(|| format!("there is no pod {wanted}"))
    };
    let service = node.cluster_address("server")?;
    let direct = SocketAddr::new(pod_ip(pod("server")?)?, PORT);
    let (client, server) = (node.pod_pid(pod("client")?)?, node.pod_pid(pod("server")?)?);
    // It ends with this program.
    namespace::spawn(server, || {
        let serve = || {
            alone()?;
            Server::bind(([0, 0, 0, 0], PORT).into())?.serve()
        };
        if let Err(error) = serve() {
            eprintln!("the server in the pod: {error}");
        }
    })?;
    for target in [direct, service] {
        node.wait("an answer", START, |_| rate(client, target, Kind::Rr).map(Some))?;
    }
    let (mut through, mut past) = (Vec::new(), Vec::new());
    for round in Rounds::new(LEAST, MOST, BUDGET) {
        calm()?;
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                through.push(rate(client, service, Kind::Rr)?);
            } else {
                past.push(rate(client, direct, Kind::Rr)?);
            }
        }
    }
    node.down()?;
    let ratios = pairwise(&through, &past);
    let (through, past) = (thousands(&through), thousands(&past));
    Ok(vec![Measured::beside(
        FIGURES[0],
        "",
        &ratios,
        PEER,
        (&through, &past),
        "thousand round trips/s",
    )?])
}

/// Exchanges per second of one client.
pub fn rate(client: u32, target: SocketAddr, kind: Kind) -> Result<f64> {
    let load = Load {
        kind,
        target,
        duration: RUN,
        connections: 1,
        size: 0,
    };
    let outcome = namespace::enter(client, move || {
        alone()?;
        client::run(load)
    })??;
    ensure!(
        outcome.errors == 0,
        "{} of {} exchanges with {target} failed: {}",
        outcome.errors,
        outcome.exchanges,
        outcome.last_error.unwrap_or_default()
    );
    Ok(outcome.rate)
}

/// This thread, and those it starts, on one processor, ahead of others.
pub fn alone() -> io::Result<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut processors = CpuSet::new();
    processors.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &processors)?;
    ahead()
}

/// In thousands.
pub fn thousands(rates: &[f64]) -> Vec<f64> {
    rates.iter().map(|rate| rate / 1e3).collect()
}
