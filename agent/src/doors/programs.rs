//! Door to the loaded programs: what they would do with a packet, what they count, what they drop.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use keelson_core::explain::words::DROPS;
use keelson_dataplane::{
    Dataplane, DropRing, Fill as MapFill, Generation,
    abi::{
        Backend, COUNTER_DROPS, COUNTER_FLOW_EXPIRED, COUNTER_FLOW_NEW, COUNTER_FLOW_REPLACED, Endpoint,
        FRONTEND_DROP, FRONTEND_EXTERNAL, FRONTEND_LOCAL, Frontend, FrontendKey, NodeConfig, Trace,
    },
    netlink::link::Device,
};

use crate::metrics::{Fill, Source, Tally};

/// The programs and what they look at. Calls are a few system calls each.
pub trait Programs: Send + Sync {
    /// What a program would do with a packet on a device; nothing else is changed.
    fn dry_run(&self, program: &str, packet: &[u8], ifindex: u32) -> anyhow::Result<Trace>;
    /// The frontend under a key.
    fn frontend(&self, key: &FrontendKey) -> anyhow::Result<Option<Frontend>>;
    /// All frontends.
    fn frontends(&self) -> anyhow::Result<Vec<(FrontendKey, Frontend)>>;
    /// Slots of a Service's revision.
    fn slots(&self, service: u32, revision: u32, first: u32, count: u32) -> anyhow::Result<Vec<Backend>>;
    /// The local pod that has an address.
    fn endpoint(&self, address: IpAddr) -> anyhow::Result<Option<Endpoint>>;
    /// The node's values.
    fn node(&self) -> anyhow::Result<NodeConfig>;
    /// Every device.
    fn devices(&self) -> anyhow::Result<Vec<Device>>;
    /// How full the maps are.
    fn fills(&self) -> anyhow::Result<Vec<MapFill>>;
    /// The ring of dropped packets.
    fn drops(&self) -> anyhow::Result<DropRing>;
    /// The programs that run now.
    fn generation(&self) -> Option<Generation>;
}

impl Programs for Dataplane {
    fn dry_run(&self, program: &str, packet: &[u8], ifindex: u32) -> anyhow::Result<Trace> {
        Ok(self.dry_run(program, packet, ifindex)?)
    }

    fn frontend(&self, key: &FrontendKey) -> anyhow::Result<Option<Frontend>> {
        Ok(self.frontend(key)?)
    }

    fn frontends(&self) -> anyhow::Result<Vec<(FrontendKey, Frontend)>> {
        Ok(self.frontends()?)
    }

    fn slots(&self, service: u32, revision: u32, first: u32, count: u32) -> anyhow::Result<Vec<Backend>> {
        Ok(self.slots(service, revision, first, count)?)
    }

    fn endpoint(&self, address: IpAddr) -> anyhow::Result<Option<Endpoint>> {
        Ok(self.endpoint(address.into())?)
    }

    fn node(&self) -> anyhow::Result<NodeConfig> {
        Ok(self.node()?)
    }

    fn devices(&self) -> anyhow::Result<Vec<Device>> {
        Ok(Self::devices()?)
    }

    fn fills(&self) -> anyhow::Result<Vec<MapFill>> {
        Ok(self.fills()?)
    }

    fn drops(&self) -> anyhow::Result<DropRing> {
        Ok(self.drops()?)
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.generation().clone())
    }
}

/// Service ports that serve with the policy Local and have endpoints, but none on this node.
fn without_local(frontends: &[(FrontendKey, Frontend)]) -> [(&'static str, u64); 2] {
    let of = |external: bool| {
        let lacking: BTreeSet<u32> = frontends
            .iter()
            .map(|(_, frontend)| frontend)
            .filter(|frontend| frontend.flags & FRONTEND_LOCAL != 0)
            .filter(|frontend| (frontend.flags & FRONTEND_EXTERNAL != 0) == external)
            .filter(|frontend| frontend.local_count == 0 && frontend.flags & FRONTEND_DROP != 0)
            .map(|frontend| frontend.service)
            .collect();
        lacking.len() as u64
    };
    [("internal", of(false)), ("external", of(true))]
}

/// The counters of the programs, for those who measure.
pub struct Counters(pub std::sync::Arc<Dataplane>);

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Source for Counters {
    fn tally(&self) -> Result<Tally, String> {
        let counters = self.0.counters().map_err(|error| error.to_string())?;
        let count = |index: u32| counters.get(index as usize).copied().unwrap_or(0);
        let reasons = DROPS.iter().zip(COUNTER_DROPS..);
        let fills = self.0.fills().map_err(|error| error.to_string())?;
        Ok(Tally {
            drops: reasons.map(|((name, _), index)| (*name, count(index))).collect(),
            flows: vec![
                ("new", count(COUNTER_FLOW_NEW)),
                ("expired", count(COUNTER_FLOW_EXPIRED)),
                ("replaced", count(COUNTER_FLOW_REPLACED)),
            ],
            without_local: without_local(&self.0.frontends().map_err(|error| error.to_string())?),
            fills: fills
                .into_iter()
                .map(|fill| Fill {
                    map: fill.map.to_owned(),
                    entries: fill.entries,
                    capacity: fill.capacity,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ports_that_the_local_policy_leaves_without_endpoints_are_counted_once() {
        let frontend = |service, flags, local_count| {
            let key = FrontendKey::default();
            let value = Frontend {
                service,
                flags,
                count: 2,
                local_count,
                ..Frontend::default()
            };
            (key, value)
        };
        let (local, external) = (FRONTEND_LOCAL | FRONTEND_DROP, FRONTEND_EXTERNAL);
        let all = [
            frontend(1, local, 0),
            frontend(2, local | external, 0),
            // The same port by another address.
            frontend(2, local | external, 0),
            frontend(3, local | external, 1),
            frontend(4, external, 0),
            // No endpoint anywhere: refused, not lacking here.
            frontend(5, FRONTEND_LOCAL, 0),
        ];
        assert_eq!(without_local(&all), [("internal", 1), ("external", 1)]);
    }
}
