//! Observation loop: what the programs drop, and how full their maps are, reaches whoever should know before it hurts.
//!
//! Observe: the ring of dropped packets (as they come), the maps' fill (which nothing announces). Plan: `keelson_core::pressure`.
//! Apply: nothing. Report: events about the node; the figures themselves are in the metrics.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use keelson_core::{
    explain::words::DROPS,
    object::Key,
    pressure::{Limits, Pressures, Turn},
};
use keelson_dataplane::{
    DropRing,
    abi::{DropEvent, DropReason},
};
use tokio::{io::unix::AsyncFd, time};
use tracing::{debug, info, warn};

use crate::{
    context::Context,
    doors::programs::Programs,
    events::{self, Subject},
};

/// Maps are looked at this often.
const PERIOD: Duration = Duration::from_secs(10);
/// Drops come in bursts: they are read together.
const GATHER: Duration = Duration::from_millis(200);

/// Run until shutdown. What cannot be looked at is tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let mut shutdown = ctx.shutdown.clone();
    tokio::select! {
        () = ObservationLoop::new(ctx).run() => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

struct ObservationLoop {
    ctx: Context,
    began: Instant,
    pressures: Pressures,
    limits: Limits,
    ring: Option<AsyncFd<DropRing>>,
}

impl ObservationLoop {
    fn new(ctx: Context) -> Self {
        Self {
            ctx,
            began: Instant::now(),
            pressures: Pressures::default(),
            limits: Limits::default(),
            ring: None,
        }
    }

    async fn run(mut self) {
        let mut period = time::interval(PERIOD);
        period.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut door = self.ctx.network.maps();
        loop {
            tokio::select! {
                _ = period.tick() => self.look(),
                // The programs are loaded, or loaded anew.
                Ok(()) = door.changed() => self.look(),
                () = readable(self.ring.as_ref()) => {
                    time::sleep(GATHER).await;
                    self.read();
                }
            }
        }
    }

    /// Fill of the maps; and the ring of the programs that run now.
    fn look(&mut self) {
        let Some(programs) = self.ctx.network.programs() else {
            return;
        };
        match programs.fills() {
            Ok(fills) => {
                let fills = fills.iter().map(|fill| (fill.map, fill.entries, fill.capacity));
                for turn in self.pressures.observe(fills) {
                    self.tell_turn(turn);
                }
            }
            Err(error) => warn!("how full the maps are: {error:#}"),
        }
        self.follow_ring(&programs);
    }

    fn follow_ring(&mut self, programs: &Arc<dyn Programs>) {
        let current = self.ring.as_ref().map(|ring| ring.get_ref().generation());
        if current.is_some() && current == programs.generation().as_ref() {
            return;
        }
        let register = |ring| {
            // SAFETY: the ring owns the map's descriptor, tells always the same one, and lives within the registration.
            Ok(unsafe { AsyncFd::register(ring) }?)
        };
        let opened = programs.drops().and_then(register);
        match opened {
            Ok(ring) => self.ring = Some(ring),
            Err(error) => warn!("what the programs drop cannot be read, only counted: {error:#}"),
        }
    }

    fn read(&mut self) {
        let Some(mut ring) = self.ring.take() else { return };
        while let Some(event) = ring.get_mut().next_event() {
            self.dropped(&event);
        }
        self.ring = Some(ring);
    }

    fn dropped(&mut self, event: &DropEvent) {
        let (name, why) = DROPS
            .get(event.reason as usize)
            .copied()
            .unwrap_or(("Unknown", "a reason that this version does not know"));
        let key = &event.key;
        let end = |addr, port_be| SocketAddr::new(IpAddr::from(addr), u16::from_be(port_be));
        let (source, target) = (end(key.src, key.sport_be), end(key.dst, key.dport_be));
        debug!(reason = name, %source, %target, protocol = key.proto, ifindex = event.ifindex, "packet dropped");
        // The node's own shortage; the rest is what a sender did, and is counted.
        let help = match event.reason {
            reason if reason == DropReason::FlowTableFull as u32 => {
                "connections that end make room; `keelson_map_entries{map=\"flow\"}` tells how many there are"
            }
            reason if reason == DropReason::NoPort as u32 => {
                "a wider range of snatPorts in the configuration gives more connections to one destination"
            }
            _ => return,
        };
        if let Some(count) = self.limits.count(event.reason, self.began.elapsed()) {
            let message = format!(
                "{count} new connections were refused since {why}, the last one {source} -> {target}; {help}"
            );
            warn!("{message}");
            self.event(events::WARNING, name, &message);
        }
    }

    fn tell_turn(&self, turn: Turn) {
        match turn {
            Turn::Pressure(map, entries, capacity) => {
                let message = format!("the map {map} holds {entries} of the {capacity} entries that fit");
                warn!("{message}");
                self.event(events::WARNING, "MapPressure", &message);
            }
            Turn::Relief(map, entries, capacity) => {
                let message = format!(
                    "the map {map} has room again: it holds {entries} of the {capacity} entries that fit"
                );
                info!("{message}");
                self.event(events::NORMAL, "MapPressureGone", &message);
            }
        }
    }

    fn event(&self, type_: &str, reason: &str, message: &str) {
        let subject = Subject {
            kind: "Node",
            key: Key::new("default", &self.ctx.config.node_name),
            uid: self.ctx.world.read(|objects| objects.node.metadata.uid.clone()),
            field: None,
        };
        let event = events::event(subject, type_, reason, message, Timestamp::now());
        self.ctx.world.update(|objects| objects.record(event));
    }
}

/// Until there is something in the ring; for ever, where there is none.
async fn readable(ring: Option<&AsyncFd<DropRing>>) {
    match ring {
        Some(ring) => {
            if let Ok(mut guard) = ring.readable().await {
                // What comes after this is told anew.
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use keelson_dataplane::{
        Fill, Generation,
        abi::{Addr, Backend, Endpoint, FlowKey, Frontend, FrontendKey, NodeConfig, Trace},
        netlink::link::Device,
    };
    use tokio::sync::watch;

    use super::*;
    use crate::{config::Config, world::World};

    /// Programs of which only the maps' fill is known.
    struct Filling(Mutex<u64>);

    impl Programs for Filling {
        fn fills(&self) -> anyhow::Result<Vec<Fill>> {
            let entries = *self.0.lock().expect("whole");
            Ok(vec![Fill {
                map: "flow",
                entries,
                capacity: 100,
            }])
        }
        fn dry_run(&self, _: &str, _: &[u8], _: u32) -> anyhow::Result<Trace> {
            anyhow::bail!("not here")
        }
        fn frontend(&self, _: &FrontendKey) -> anyhow::Result<Option<Frontend>> {
            anyhow::bail!("not here")
        }
        fn frontends(&self) -> anyhow::Result<Vec<(FrontendKey, Frontend)>> {
            anyhow::bail!("not here")
        }
        fn slots(&self, _: u32, _: u32, _: u32, _: u32) -> anyhow::Result<Vec<Backend>> {
            anyhow::bail!("not here")
        }
        fn endpoint(&self, _: IpAddr) -> anyhow::Result<Option<Endpoint>> {
            anyhow::bail!("not here")
        }
        fn node(&self) -> anyhow::Result<NodeConfig> {
            anyhow::bail!("not here")
        }
        fn devices(&self) -> anyhow::Result<Vec<Device>> {
            anyhow::bail!("not here")
        }
        fn drops(&self) -> anyhow::Result<DropRing> {
            anyhow::bail!("not here")
        }
        fn generation(&self) -> Option<Generation> {
            None
        }
    }

    fn rig() -> (ObservationLoop, Arc<Filling>) {
        let (_, shutdown) = watch::channel(false);
        let ctx = Context {
            config: Arc::new(Config::default()),
            world: World::new(k8s_openapi::api::core::v1::Node::default()),
            health: Arc::default(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        let programs = Arc::new(Filling(Mutex::new(0)));
        ctx.network.publish_programs(programs.clone());
        (ObservationLoop::new(ctx), programs)
    }

    fn told(observation: &ObservationLoop) -> Vec<(String, String)> {
        observation.ctx.world.read(|objects| {
            let events = objects.events.iter();
            events
                .map(|event| {
                    (
                        event.reason.clone().unwrap_or_default(),
                        event.message.clone().unwrap_or_default(),
                    )
                })
                .collect()
        })
    }

    #[test]
    fn a_map_that_fills_up_is_an_event_before_it_is_a_failure() {
        let (mut observation, programs) = rig();
        for (entries, reasons) in [
            (10, &[][..]),
            (80, &["MapPressure"]),
            (90, &["MapPressure"]),
            (10, &["MapPressure", "MapPressureGone"]),
        ] {
            *programs.0.lock().expect("whole") = entries;
            observation.look();
            let found = told(&observation);
            let found: Vec<&str> = found.iter().map(|(reason, _)| reason.as_str()).collect();
            assert_eq!(found, reasons, "at {entries}");
        }
    }

    #[test]
    fn exhaustion_is_told_with_what_and_why_and_not_for_every_packet() {
        let (mut observation, _) = rig();
        let event = |reason: DropReason| DropEvent {
            key: FlowKey {
                src: Addr::from(IpAddr::from([10, 244, 0, 5])),
                dst: Addr::from(IpAddr::from([192, 0, 2, 1])),
                sport_be: 4000_u16.to_be(),
                dport_be: 443_u16.to_be(),
                proto: 6,
                reserved: [0; 3],
            },
            reason: reason as u32,
            ifindex: 3,
        };
        for _ in 0..1000 {
            observation.dropped(&event(DropReason::NoPort));
            observation.dropped(&event(DropReason::NoEndpoint));
        }
        observation.dropped(&event(DropReason::FlowTableFull));
        let found = told(&observation);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, "NoPort");
        for expected in [
            "no source port is free",
            "10.244.0.5:4000 -> 192.0.2.1:443",
            "snatPorts",
        ] {
            assert!(found[0].1.contains(expected), "{expected:?} in {found:?}");
        }
        assert_eq!(found[1].0, "FlowTableFull");
    }
}
