//! A Service port with everything it can have, written to the maps as the agent does: in IPv4, and in IPv6 under the twins of
//! its addresses and of its id.

use std::net::{IpAddr, Ipv4Addr};

use keelson_dataplane::{
    Dataplane,
    abi::{
        Addr, BACKEND_BLOCK, BACKEND_NODE, Backend, BackendBlock, BackendKey, Frontend, FrontendKey,
        MAGLEV_BLOCK, MAP_MAGLEV, MAP_MEMBER, MEMBER_CLUSTER, MEMBER_LOCAL, MaglevBlock, MaglevKey, Member,
        MemberKey,
    },
};

use crate::{
    raw,
    topology::{NODE, TWIN, To, Topology, addr, six},
};

/// A Service port as the agent writes it.
#[derive(Clone, Default)]
pub struct Port {
    /// Address, port, protocol, `FRONTEND_*`.
    pub frontends: Vec<(Ipv4Addr, u16, u8, u32)>,
    /// Endpoints of the Cluster policy.
    pub cluster: Vec<To>,
    /// Endpoints of the Local policy.
    pub local: Vec<To>,
    /// Endpoints that serve though nobody new is sent there.
    pub serving: Vec<To>,
    /// Seconds of session affinity.
    pub affinity: u32,
    /// Source networks, each with its prefix length; IPv4 only.
    pub ranges: Vec<(Ipv4Addr, u32)>,
    /// Slots by table position.
    pub maglev: Vec<u16>,
    /// Raised when an endpoint stopped serving.
    pub generation: u32,
}

/// One of the two families that a Service is written in.
#[derive(Clone, Copy)]
struct Family {
    six: bool,
    service: u32,
}

impl Family {
    fn both(service: u32) -> [Self; 2] {
        [(false, service), (true, service | TWIN)].map(|(six, service)| Self { six, service })
    }

    fn addr(self, address: Ipv4Addr) -> Addr {
        if self.six {
            IpAddr::V6(six(address)).into()
        } else {
            addr(address)
        }
    }

    fn endpoint(self, to: To) -> Backend {
        let (address, port, flags) = match to {
            To::Pod(address, port) => (address, port, 0),
            To::Node(port) => (NODE, port, BACKEND_NODE),
        };
        Backend {
            addr: self.addr(address),
            port_be: port.to_be(),
            flags,
        }
    }

    fn member(self, to: To) -> MemberKey {
        let backend = self.endpoint(to);
        MemberKey {
            addr: backend.addr,
            service: self.service,
            port_be: backend.port_be,
            reserved: 0,
        }
    }

    fn key(self, revision: u32, block: u32) -> BackendKey {
        BackendKey {
            service: self.service,
            revision,
            block,
        }
    }
}

impl Topology {
    /// Writes a Service port under the id: slots, table and members first, the frontends that show them last.
    pub fn program(&self, service: u32, revision: u32, port: &Port) {
        let port = port.clone();
        self.with(move |dataplane| {
            for family in Family::both(service) {
                put_slots(dataplane, family, revision, &port);
                put_members(dataplane, family, &port);
                put_frontends(dataplane, family, revision, &port);
            }
            for (network, length) in &port.ranges {
                raw::put_source_range(dataplane, service, *network, *length);
            }
        });
    }

    /// An endpoint of a Service that serves no more.
    pub fn forget_member(&self, service: u32, to: To) {
        self.with(move |dataplane| {
            for family in Family::both(service) {
                raw::remove(dataplane, MAP_MEMBER, &family.member(to));
            }
        });
    }
}

fn put_slots(dataplane: &Dataplane, family: Family, revision: u32, port: &Port) {
    let slots: Vec<Backend> = port
        .cluster
        .iter()
        .chain(&port.local)
        .map(|to| family.endpoint(*to))
        .collect();
    for (block, chunk) in (0..).zip(slots.chunks(BACKEND_BLOCK as usize)) {
        let mut value = BackendBlock::default();
        value.slots[..chunk.len()].copy_from_slice(chunk);
        dataplane
            .put_backend(&family.key(revision, block), &value)
            .expect("backend");
    }
    for (block, chunk) in (0..).zip(port.maglev.chunks(MAGLEV_BLOCK as usize)) {
        let mut value = MaglevBlock {
            slots: [0; MAGLEV_BLOCK as usize],
        };
        value.slots[..chunk.len()].copy_from_slice(chunk);
        let key: MaglevKey = family.key(revision, block);
        raw::put(dataplane, MAP_MAGLEV, &key, &value);
    }
}

fn put_members(dataplane: &Dataplane, family: Family, port: &Port) {
    let flag = |set: &[To], to: To, flag: u16| {
        let holds = set.iter().any(|other| family.member(*other) == family.member(to));
        if holds { flag } else { 0 }
    };
    for to in port.cluster.iter().chain(&port.local).chain(&port.serving) {
        let value = Member {
            flags: flag(&port.cluster, *to, MEMBER_CLUSTER) | flag(&port.local, *to, MEMBER_LOCAL),
            backend_flags: family.endpoint(*to).flags,
        };
        raw::put(dataplane, MAP_MEMBER, &family.member(*to), &value);
    }
}

fn put_frontends(dataplane: &Dataplane, family: Family, revision: u32, port: &Port) {
    for (address, number, proto, flags) in &port.frontends {
        let key = FrontendKey {
            addr: family.addr(*address),
            port_be: number.to_be(),
            proto: *proto,
            reserved: 0,
        };
        let value = Frontend {
            service: family.service,
            revision,
            generation: port.generation,
            count: port.cluster.len() as u32,
            local_count: port.local.len() as u32,
            flags: *flags,
            affinity_seconds: port.affinity,
            maglev: port.maglev.len() as u32,
        };
        dataplane.put_frontend(&key, &value).expect("frontend");
    }
}
