//! The loaded programs: each packet is run dry, and then for real, and what comes of it is held against the model.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use keelson_dataplane::abi::{
    Addr, Affinity, AffinityKey, BACKEND_BLOCK, BackendKey, CHOICE_AFFINITY, DropReason, FrontendKey,
    TRACE_DROP, TRACE_INJECT, TRACE_NEIGH, TRACE_PASS, TRACE_PEER, TRACE_REFUSE, Trace,
};
use keelson_dataplane::{Dataplane, ServiceTables};
use keelson_tests::oracle::{
    Cluster, Masquerade, Packet, Place, Verdict,
    generate::{self, ip},
};

use crate::{
    lab::{self, Lab, Outcome},
    packet::{self, Seen},
};

/// `TC_ACT_SHOT`.
const DROP: u32 = 2;
/// What a pod that reaches itself sees, and what the node's own endpoints see of the node's own clients.
const STAND_INS: [&str; 4] = ["169.254.1.1", "169.254.1.2", "fe80::1", "fe80::2"];

/// One cluster's packets, each from a port of its own.
struct Run<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster,
    port: u16,
}

impl Run<'_> {
    fn holds(&mut self, mut packet: Packet) -> Result<(), String> {
        if !can_be_sent(self.cluster, &packet) {
            return Ok(());
        }
        // Nothing is remembered but what the maps remember.
        self.remember(&mut packet);
        let expected = self.cluster.verdict(&packet);
        let Some(dry) = self.lab.send(&packet, self.port, true) else {
            return Ok(());
        };
        let told = |what: String| format!("{packet:?}\nkube-proxy: {expected:?}\n{what}\n{:?}", dry.trace);
        self.dry(&packet, &expected, &dry.trace)
            .map_err(|error| told(format!("dry run: {error}")))?;
        if let Some(real) = self.lab.send(&packet, self.port, false) {
            self.real(&packet, &expected, &real)
                .map_err(|error| told(format!("real run: {error}")))?;
        }
        self.port += 1;
        Ok(())
    }

    /// Write down that the client was given an endpoint before; without affinity there is nothing to remember.
    fn remember(&self, packet: &mut Packet) {
        let key = FrontendKey {
            addr: asked(self.cluster, packet).into(),
            port_be: packet.to.port().to_be(),
            proto: packet.protocol.number(),
            reserved: 0,
        };
        // What a client of 127.0.0.1 is remembered by is 127.0.0.1.
        let client = if packet.to.ip().is_loopback() {
            packet.to.ip()
        } else {
            packet.source.address
        };
        let (client, kept) = (Addr::from(client), packet.remembered);
        self.lab.topology.with(move |dataplane| {
            let frontend = dataplane
                .frontend(&key)
                .expect("read")
                .filter(|one| one.affinity_seconds != 0);
            let Some(frontend) = frontend else { return };
            let key = AffinityKey {
                client,
                service: frontend.service,
                reserved: 0,
            };
            let tables = ServiceTables::open(dataplane.generation()).expect("maps");
            match kept {
                None => tables.affinity.remove(&[key]).expect("forgotten"),
                Some(kept) => {
                    let value = Affinity {
                        addr: kept.ip().into(),
                        port_be: kept.port().to_be(),
                        reserved: 0,
                        seen: now(),
                    };
                    tables
                        .affinity
                        .put([(key, value)].into_iter())
                        .expect("remembered");
                }
            }
        });
    }

    fn dry(&self, packet: &Packet, expected: &Verdict, trace: &Trace) -> Result<(), String> {
        let asked = trace.frontend != FrontendKey::default();
        let reason = trace.drop_reason.checked_sub(1);
        let sent = matches!(
            trace.verdict,
            TRACE_PASS | TRACE_PEER | TRACE_NEIGH | TRACE_INJECT
        );
        match expected {
            Verdict::Pass if asked || !sent => Err("a Service answers, or the packet is stopped".into()),
            Verdict::Reject if trace.verdict != TRACE_REFUSE => Err("it is not refused".into()),
            Verdict::Drop if trace.verdict != TRACE_DROP => Err("it is not dropped".into()),
            Verdict::Drop if reason == Some(DropReason::NoConnection as u32) => {
                Err("dropped for another reason".into())
            }
            Verdict::Translate(_) if !sent => Err("it is not sent on".into()),
            Verdict::Translate(to) => {
                let candidates = self.candidates(trace)?;
                let admitted: BTreeSet<SocketAddr> = to.keys().copied().collect();
                if trace.choice == CHOICE_AFFINITY {
                    if packet.remembered.is_none_or(|kept| !admitted.contains(&kept)) {
                        return Err("remembered, and should not be".into());
                    }
                } else if candidates != admitted {
                    return Err(format!("chosen among {candidates:?}"));
                }
                let seen = |addr: Addr, port_be: u16| SocketAddr::new(addr.into(), u16::from_be(port_be));
                let out = &trace.translated;
                self.translation(
                    packet,
                    to,
                    seen(out.src, out.sport_be),
                    seen(out.dst, out.dport_be),
                )
            }
            _ => Ok(()),
        }
    }

    /// The slots that were chosen from.
    fn candidates(&self, trace: &Trace) -> Result<BTreeSet<SocketAddr>, String> {
        let Trace {
            service,
            revision,
            first,
            candidates,
            ..
        } = *trace;
        let slot = move |dataplane: &Dataplane, slot: u32| {
            let key = BackendKey {
                service,
                revision,
                block: slot / BACKEND_BLOCK,
            };
            let block = dataplane.backend(&key).expect("read")?;
            let slot = block.slots[(slot % BACKEND_BLOCK) as usize];
            Some(SocketAddr::new(slot.addr.into(), u16::from_be(slot.port_be)))
        };
        let slots = self.lab.topology.with(move |dataplane| {
            let slots = first..first + candidates;
            slots
                .map(|number| slot(dataplane, number))
                .collect::<Option<BTreeSet<_>>>()
        });
        slots.ok_or_else(|| "a slot is missing".to_owned())
    }

    fn real(&self, packet: &Packet, expected: &Verdict, outcome: &Outcome) -> Result<(), String> {
        match expected {
            Verdict::Drop if outcome.code != DROP => Err(format!("verdict {}", outcome.code)),
            Verdict::Translate(to) => {
                let Seen { source, target, .. } = packet::read(&outcome.frame)?;
                self.translation(packet, to, source, target)
            }
            // A refusal is built in place; what passes is as it was.
            _ => packet::read(&outcome.frame).map(drop),
        }
    }

    fn translation(
        &self,
        packet: &Packet,
        to: &BTreeMap<SocketAddr, Masquerade>,
        source: SocketAddr,
        target: SocketAddr,
    ) -> Result<(), String> {
        is_right(self.cluster, packet, to, source, target)
    }
}

/// Whether the endpoint is one of those admitted, and sees whom it should.
pub fn is_right(
    cluster: &Cluster,
    packet: &Packet,
    to: &BTreeMap<SocketAddr, Masquerade>,
    source: SocketAddr,
    target: SocketAddr,
) -> Result<(), String> {
    let mark = to.get(&target).ok_or_else(|| format!("sent to {target}"))?;
    let own = &cluster.node.addresses;
    let stands_in = STAND_INS.iter().any(|text| source.ip() == ip(text));
    let client = packet.source.address;
    let right = match (packet.source.place, own.contains(&target.ip()), mark) {
        // The node's own endpoints answer everybody by the way the question came: they see who asks.
        (Place::Pod | Place::RemotePod | Place::Outside, true, _) => source.ip() == client,
        // The node's own clients reach its own endpoints under a stand-in, so that answers come back.
        (Place::Host, true, _) => stands_in,
        (_, _, Masquerade::No) => source.ip() == client,
        (_, _, Masquerade::Yes) => own.contains(&source.ip()),
        // A stand-in means nothing beyond the node.
        (Place::Pod, _, Masquerade::Hairpin) => {
            source.ip() != client && (stands_in || own.contains(&source.ip()))
        }
        (_, _, Masquerade::Hairpin) => source.ip() != client && own.contains(&source.ip()),
    };
    if right {
        Ok(())
    } else {
        Err(format!("{target} sees {source}: {mark:?}"))
    }
}

/// The address that a packet's frontend stands under.
fn asked(cluster: &Cluster, packet: &Packet) -> IpAddr {
    let primary = cluster.node.addresses.first().copied();
    let loopback = packet.to.ip().is_loopback();
    primary.filter(|_| loopback).unwrap_or(packet.to.ip())
}

/// What the topology cannot send: 127.0.0.1 beyond the host, and processes of the host to where no program of ours sits.
fn can_be_sent(cluster: &Cluster, packet: &Packet) -> bool {
    let host = packet.source.place == Place::Host;
    let loopback = packet.to.ip().is_loopback();
    let served = cluster.verdict(packet) != Verdict::Pass;
    if host { served } else { !loopback }
}

/// The programs do with these packets what the model says.
pub fn all_hold(lab: &Lab, cluster: &Cluster, packets: &[Packet]) -> Result<(), String> {
    lab.program(cluster);
    let port = 40_000;
    let mut run = Run { lab, cluster, port };
    packets.iter().try_for_each(|packet| run.holds(*packet))
}

/// Seconds of the clock that the programs read.
fn now() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    time.map_or(0, |time| time.tv_sec() as u32)
}

#[test]
fn the_loaded_programs_do_what_kube_proxy_would_do() -> Result<(), String> {
    let lab = lab::shared();
    let sent = Cell::new(0_usize);
    let cases = generate::cases(4_000, 200_000);
    generate::check_packets("programs", cases, |cluster, asks| {
        lab.program(cluster);
        let mut run = Run {
            lab: &lab,
            cluster,
            port: 40_000,
        };
        asks.iter().try_for_each(|ask| run.holds(ask.packet(cluster)))?;
        sent.set(sent.get() + usize::from(run.port - 40_000));
        Ok(())
    })?;
    println!("programs: {} packets were sent, dry and for real", sent.get());
    Ok(())
}
