//! The loaded programs in a namespace, with planned maps, and packets run through them one by one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use keelson_core::service::plan::{Plan, Write};
use keelson_dataplane::{
    Dataplane, ServiceTables, TestContext,
    abi::{NODE_MASQUERADE_ALL, PROG_HOST_INGRESS, PROG_POD_INGRESS, PROG_UPLINK_INGRESS, Trace},
};
use keelson_tests::oracle::{
    Cluster, Packet, Place,
    generate::{ip, places::PODS},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{packet, planned, topology::Topology};

/// A topology whose maps follow clusters.
pub struct Lab {
    pub topology: Topology,
    devices: Devices,
}

/// Index and address of the devices that packets are let in by.
struct Devices {
    pods: Vec<(IpAddr, Device)>,
    uplink: Device,
    host: Device,
}

type Device = (u32, [u8; 6]);

/// What came of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `TC_ACT_*`.
    pub code: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Of dry runs: what was decided and why.
    pub trace: Trace,
}

/// One for all tests that only run single packets: making it takes longer than they do. Its namespaces end with the process.
pub fn shared() -> MutexGuard<'static, Lab> {
    static LAB: LazyLock<Mutex<Lab>> = LazyLock::new(|| Mutex::new(Lab::new()));
    // Whoever failed before left maps that the next one empties.
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lab {
    pub fn new() -> Self {
        let topology = Topology::new();
        let links = ["vp1", "vp2", "vp3"].map(|link| topology.link(link));
        let pods = PODS.iter().zip(links.iter().cycle());
        let devices = Devices {
            pods: pods.map(|(address, device)| (ip(address), *device)).collect(),
            uplink: topology.link("up0"),
            host: topology.link("keelson1"),
        };
        // Traces are per CPU.
        topology.node.run(|| {
            let mut one = CpuSet::new();
            one.set(0).expect("CPU 0");
            sched_setaffinity(Pid::from_raw(0), &one).expect("affinity");
        });
        Self { topology, devices }
    }

    /// Make the maps those of a cluster, as if nothing had been there before.
    pub fn program(&self, cluster: &Cluster) {
        let plan = planned::first_plan(cluster);
        let all = cluster.settings.masquerade_all;
        self.topology.with(move |dataplane| {
            clear(dataplane);
            carry_out(dataplane, &plan);
            let mut node = dataplane.node().expect("node");
            let flags = node.flags & !NODE_MASQUERADE_ALL | if all { NODE_MASQUERADE_ALL } else { 0 };
            if node.flags != flags {
                node.flags = flags;
                dataplane.set_node(&node).expect("node written");
            }
        });
    }

    /// Run the program that meets this packet first. `None`: no program of ours would.
    pub fn send(&self, packet: &Packet, port: u16, dry: bool) -> Option<Outcome> {
        let (program, (ifindex, mac)) = self.place(packet)?;
        let source = if packet.to.ip().is_loopback() {
            packet.to.ip()
        } else {
            packet.source.address
        };
        let frame = packet::first(SocketAddr::new(source, port), packet.to, packet.protocol, mac);
        Some(self.topology.with(move |dataplane| {
            let mark = if dry {
                dataplane.node().expect("node").dry_run_mark
            } else {
                0
            };
            let context = TestContext {
                ifindex,
                ingress_ifindex: ifindex,
                mark,
            };
            let output = dataplane.test_run(program, &frame, context).expect("test run");
            if dry {
                assert_eq!(output.packet, frame, "a dry run changes no packet");
            }
            Outcome {
                code: output.code,
                frame: output.packet,
                trace: dataplane.traces().expect("traces")[0],
            }
        }))
    }

    fn place(&self, packet: &Packet) -> Option<(&'static str, Device)> {
        let source = packet.source.address;
        let of_pod = || self.devices.pods.iter().find(|(address, _)| *address == source);
        match packet.source.place {
            Place::Pod => of_pod().map(|(_, device)| (PROG_POD_INGRESS, *device)),
            Place::RemotePod | Place::Outside => Some((PROG_UPLINK_INGRESS, self.devices.uplink)),
            Place::Host => Some((PROG_HOST_INGRESS, self.devices.host)),
        }
    }
}

fn clear(dataplane: &Dataplane) {
    let tables = ServiceTables::open(dataplane.generation()).expect("maps");
    macro_rules! empty {
        ($($table:ident),*) => { $(
            let keys: Vec<_> = tables.$table.list().expect("listed").into_iter().map(|(key, _)| key).collect();
            tables.$table.remove(&keys).expect("emptied");
        )* };
    }
    empty!(frontends, backends, members, ranges, maglev, affinity);
    dataplane.forget_flows(|_, _| true).expect("flows forgotten");
}

/// Writes a plan in its order.
pub fn carry_out(dataplane: &Dataplane, plan: &Plan) {
    let tables = ServiceTables::open(dataplane.generation()).expect("maps");
    for write in &plan.writes {
        match write {
            Write::RemoveFrontend(key) => tables.frontends.remove(&[*key]),
            Write::PutFrontend(key, value) => tables.frontends.put([(*key, *value)].into_iter()),
            Write::RemoveBackend(key) => tables.backends.remove(&[*key]),
            Write::PutBackend(key, value) => tables.backends.put([(*key, *value)].into_iter()),
            Write::RemoveMember(key) => tables.members.remove(&[*key]),
            Write::PutMember(key, value) => tables.members.put([(*key, *value)].into_iter()),
            Write::RemoveRange(key) => tables.ranges.remove(&[*key]),
            Write::PutRange(key) => tables.ranges.put([(*key, 1)].into_iter()),
            Write::RemoveMaglev(key) => tables.maglev.remove(&[*key]),
            Write::PutMaglev(key, value) => tables.maglev.put([(*key, **value)].into_iter()),
        }
        .expect("written");
    }
}
