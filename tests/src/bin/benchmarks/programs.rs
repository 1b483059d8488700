//! What a packet costs in the programs, beside a floor that makes the same map operations and helper calls and decides nothing
//! between them. Every run is one packet with a tuple of its own; both sides of a pair run
//! one after the other: new flows packet by packet, packets of flows in short bursts.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap as BpfHashMap, MapData},
    programs::SchedClassifier,
};
use keelson_abi::{
    Addr, Backend, BackendBlock, BackendKey, Endpoint, Flow, FlowKey, Frontend, FrontendKey, PROG_POD_INGRESS,
};
use keelson_bench::stats::{pairwise, spread};
use keelson_dataplane::{Dataplane, TestContext, TestOutput, run_program};
use keelson_tests::packet::{Frame, tcp};

use crate::{
    lab::{self, CLIENT, Lab, SERVER},
    report::Measured,
    rounds::calm,
};

/// What is measured here.
pub const FIGURES: [&str; 2] = [
    "prog_new_flow_over_floor_ratio",
    "prog_established_over_floor_ratio",
];
const PEER: &str = "same map operations and helper calls, no decisions";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const ROUNDS: usize = 9;
/// Packets per round.
const PACKETS: usize = 400;
/// Of which so many come back to back.
const BURST: usize = 50;
/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;
const TCP: u8 = 6;

/// Measure both.
pub fn measure() -> Result<Vec<Measured>> {
    let lab = Lab::new()?;
    let rounds = lab.inside(|| {
        let dataplane = lab::dataplane()?;
        let mut floor = Floor::load()?;
        let ifindex = lab::link()?;
        fill(&dataplane, &mut floor, ifindex)?;
        let bench = Bench {
            dataplane,
            floor,
            ifindex,
        };
        (0..ROUNDS)
            .map(|round| bench.round(round))
            .collect::<Result<Vec<_>>>()
    })?;
    let column = |pick: fn(&Round) -> f64| rounds.iter().map(pick).collect::<Vec<f64>>();
    let (new, floor_new) = (column(|r| r.new.0), column(|r| r.new.1));
    let (known, floor_known) = (column(|r| r.known.0), column(|r| r.known.1));
    let unit = "ns per packet";
    Ok(vec![
        Measured::beside(
            FIGURES[0],
            "",
            &pairwise(&new, &floor_new),
            PEER,
            (&new, &floor_new),
            unit,
        )?,
        Measured::beside(
            FIGURES[1],
            "",
            &pairwise(&known, &floor_known),
            PEER,
            (&known, &floor_known),
            unit,
        )?,
    ])
}

/// Medians of one round, ours and the floor's.
struct Round {
    new: (f64, f64),
    known: (f64, f64),
}

struct Bench {
    dataplane: Dataplane,
    floor: Floor,
    ifindex: u32,
}

impl Bench {
    fn round(&self, round: usize) -> Result<Round> {
        calm()?;
        let context = TestContext {
            ifindex: self.ifindex,
            ..TestContext::default()
        };
        let [mut new, mut known] = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        let first = 1024 + round * PACKETS;
        // One connection after the other: each opens with everything it needs out of the way.
        for port in first..first + PACKETS {
            let packet = packet(port, tcp::SYN)?;
            new.0.push(self.ours(&packet, context)?);
            new.1.push(self.floors("floor_new", &packet, context)?);
        }
        // Packets of connections come back to back, as they do where a node has something to carry.
        for burst in (first..first + PACKETS).step_by(BURST) {
            let packets = (burst..burst + BURST)
                .map(|port| packet(port, tcp::ACK))
                .collect::<Result<Vec<_>>>()?;
            for packet in &packets {
                known.0.push(self.ours(packet, context)?);
            }
            for packet in &packets {
                known.1.push(self.floors("floor_established", packet, context)?);
            }
        }
        let median = |times: &[f64]| spread(times).map(|s| s.median).context("no packet");
        Ok(Round {
            new: (median(&new.0)?, median(&new.1)?),
            known: (median(&known.0)?, median(&known.1)?),
        })
    }

    fn ours(&self, packet: &[u8], context: TestContext) -> Result<f64> {
        delivered(&self.dataplane.test_run(PROG_POD_INGRESS, packet, context)?)
    }

    fn floors(&self, program: &str, packet: &[u8], context: TestContext) -> Result<f64> {
        delivered(&run_program(self.floor.program(program)?, packet, context)?)
    }
}

/// A packet of the client with this port to the Service.
fn packet(port: usize, flags: u8) -> Result<Vec<u8>> {
    let frame = Frame {
        to: lab::MAC,
        ..Frame::default()
    };
    let client = SocketAddrV4::new(CLIENT.into(), u16::try_from(port)?);
    Ok(frame.tcp(client, SocketAddrV4::new(VIP, 80), flags, b""))
}

/// Nanoseconds of a run that delivered the packet.
fn delivered(run: &TestOutput) -> Result<f64> {
    ensure!(run.code == REDIRECT, "a packet was not delivered: {}", run.code);
    Ok(f64::from(run.nanoseconds))
}

/// The floor's programs and maps.
struct Floor(Ebpf);

impl Floor {
    fn load() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/keelson-floor");
        let bytes = std::fs::read(&path)
            .with_context(|| format!("reading {}: `cargo xtask build` makes it", path.display()))?;
        let mut ebpf = EbpfLoader::new()
            .load(&bytes)
            .context("loading the floor's programs")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(Self(ebpf))
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self
            .0
            .program(name)
            .with_context(|| format!("there is no program {name}"))?;
        let program: &SchedClassifier = program.try_into()?;
        Ok(program.fd()?.as_fd())
    }

    fn put<K: Pod, V: Pod>(&mut self, map: &str, key: &K, value: &V) -> Result<()> {
        let map = self
            .0
            .map_mut(map)
            .with_context(|| format!("there is no map {map}"))?;
        let mut map: BpfHashMap<&mut MapData, K, V> = map.try_into()?;
        Ok(map.insert(key, value, 0)?)
    }
}

/// One Service with one endpoint, and as many others as a small node has, on both sides.
fn fill(dataplane: &Dataplane, floor: &mut Floor, ifindex: u32) -> Result<()> {
    let address = |octets: [u8; 4]| Addr::from(IpAddr::from(octets));
    for (number, pod) in [CLIENT, SERVER].into_iter().enumerate() {
        let endpoint = Endpoint {
            ifindex,
            epoch: u32::try_from(number)? + 1,
            netnsid: -1,
            ..Endpoint::default()
        };
        dataplane.put_endpoint(address(pod), &endpoint)?;
        floor.put("floor_endpoint", &address(pod), &endpoint)?;
    }
    let mut block = BackendBlock::default();
    block.slots[0] = Backend {
        addr: address(SERVER),
        port_be: 8080_u16.to_be(),
        flags: 0,
    };
    let services: HashMap<u32, Ipv4Addr> = (1..=10)
        .map(|id| (id, Ipv4Addr::from(u32::from(VIP) + id - 1)))
        .collect();
    for (service, vip) in services {
        let key = FrontendKey {
            addr: address(vip.octets()),
            port_be: 80_u16.to_be(),
            proto: TCP,
            reserved: 0,
        };
        let frontend = Frontend {
            service,
            revision: 1,
            generation: 1,
            count: 1,
            ..Frontend::default()
        };
        let slot = BackendKey {
            service,
            revision: 1,
            block: 0,
        };
        dataplane.put_backend(&slot, &block)?;
        dataplane.put_frontend(&key, &frontend)?;
        floor.put("floor_backend", &slot, &block)?;
        floor.put("floor_frontend", &key, &frontend)?;
    }
    // The floor's own flows lie under the packets' tuples from the first packet on; a value to look at is enough here.
    floor.put("floor_flow", &FlowKey::default(), &Flow::default())
}
