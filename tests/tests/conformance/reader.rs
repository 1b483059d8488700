//! Reads Service maps as their layout documents them, and says what the programs must do with a packet: the third party between
//! the objects and the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use keelson_abi::{
    Addr, BACKEND_BLOCK, BACKEND_NODE, Backend, BackendBlock, BackendKey, FRONTEND_DROP, FRONTEND_EXTERNAL,
    FRONTEND_LOCAL, FRONTEND_MEMBERS, FRONTEND_NODE_PORT, FRONTEND_RANGES, Frontend, FrontendKey,
    MEMBER_CLUSTER, MEMBER_LOCAL, MaglevKey, Member, MemberKey, SourceRangeKey,
};
use keelson_core::service::plan::{GUARD, WATERMARK};
use keelson_tests::oracle::{Cluster, Masquerade, Packet, Place, Verdict};

use crate::planned;

/// What the agent writes for Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// `frontend`
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// `backend`
    pub backends: BTreeMap<BackendKey, BackendBlock>,
    /// `member`
    pub members: BTreeMap<MemberKey, Member>,
    /// `source_range`
    pub ranges: BTreeSet<SourceRangeKey>,
    /// Keys of `maglev`.
    pub tables: BTreeSet<MaglevKey>,
}

/// The two sets of a frontend, in the order of their slots.
pub struct Slots {
    pub cluster: Vec<Backend>,
    pub local: Vec<Backend>,
}

impl Maps {
    /// What the programs must do with the first packet of a connection.
    pub fn verdict(&self, cluster: &Cluster, packet: &Packet) -> Result<Verdict, String> {
        let asked = packet.to.ip();
        let Some(frontend) = self.asked(cluster, packet) else {
            return Ok(self.without_frontend(cluster, asked));
        };
        let slots = self.slots(frontend)?;
        if frontend.flags & FRONTEND_RANGES != 0 && !self.is_let_in(frontend.service, packet.source.address) {
            return Ok(Verdict::Drop);
        }
        let (local, masquerade) = policy(
            frontend.flags,
            packet.source.place,
            cluster.settings.masquerade_all,
        );
        let (set, flag) = if local {
            (slots.local, MEMBER_LOCAL)
        } else {
            (slots.cluster, MEMBER_CLUSTER)
        };
        if set.is_empty() {
            let silent = local && frontend.flags & FRONTEND_DROP != 0;
            return Ok(if silent { Verdict::Drop } else { Verdict::Reject });
        }
        let kept = packet.remembered.filter(|kept| {
            let member = self.members.get(&member_key(frontend.service, *kept));
            frontend.affinity_seconds != 0
                && frontend.flags & FRONTEND_MEMBERS != 0
                && member.is_some_and(|member| member.flags & flag != 0)
        });
        let addresses = set.iter().map(socket);
        let admitted = addresses.filter(|address| kept.is_none_or(|kept| kept == *address));
        let mark = |endpoint: SocketAddr| {
            let mark = match (endpoint.ip() == packet.source.address, masquerade) {
                (true, _) => Masquerade::Hairpin,
                (false, true) => Masquerade::Yes,
                (false, false) => Masquerade::No,
            };
            (endpoint, mark)
        };
        Ok(Verdict::Translate(admitted.map(mark).collect()))
    }

    fn asked(&self, cluster: &Cluster, packet: &Packet) -> Option<&Frontend> {
        let asked = packet.to.ip();
        let key = |address: IpAddr| FrontendKey {
            addr: address.into(),
            port_be: packet.to.port().to_be(),
            proto: packet.protocol.number(),
            reserved: 0,
        };
        if !asked.is_loopback() {
            return self.frontends.get(&key(asked));
        }
        // Processes of the host ask 127.0.0.1 for NodePorts of the address that the node is known by.
        let frontend = self.frontends.get(&key(*cluster.node.addresses.first()?))?;
        let served = frontend.flags & FRONTEND_NODE_PORT != 0;
        (served && packet.source.place == Place::Host).then_some(frontend)
    }

    fn without_frontend(&self, cluster: &Cluster, asked: IpAddr) -> Verdict {
        let guard = FrontendKey {
            addr: asked.into(),
            ..FrontendKey::default()
        };
        if self.frontends.contains_key(&guard) && !cluster.node.addresses.contains(&asked) {
            return Verdict::Reject;
        }
        let mut networks = cluster.settings.service_networks.iter();
        let within = networks.any(|text| text.parse::<ipnet::IpNet>().is_ok_and(|net| net.contains(&asked)));
        if within { Verdict::Drop } else { Verdict::Pass }
    }

    /// The longest range decides, as in the kernel; they all mean the same.
    fn is_let_in(&self, service: u32, source: IpAddr) -> bool {
        let source = bits(source.into());
        self.ranges.iter().any(|range| {
            let length = range.length - 32;
            let mask = if length == 0 {
                0
            } else {
                u128::MAX << (128 - length)
            };
            range.service_be == service.to_be() && bits(range.addr) & mask == source & mask
        })
    }

    /// The slots of a frontend; every one must be there, and none behind the last.
    pub fn slots(&self, frontend: &Frontend) -> Result<Slots, String> {
        let total = frontend.count + frontend.local_count;
        let mut all = Vec::new();
        for block in 0..total.div_ceil(BACKEND_BLOCK) {
            let key = BackendKey {
                service: frontend.service,
                revision: frontend.revision,
                block,
            };
            let found = self
                .backends
                .get(&key)
                .ok_or(format!("block {block} of {frontend:?} is missing"))?;
            all.extend(found.slots);
        }
        let behind = all.split_off(total as usize);
        if behind.iter().any(|slot| *slot != Backend::default()) {
            return Err(format!("slots behind the last of {frontend:?}"));
        }
        let local = all.split_off(frontend.count as usize);
        for set in [&all, &local] {
            if set.iter().map(socket).collect::<BTreeSet<_>>().len() != set.len() {
                return Err(format!("an endpoint stands twice in a set of {frontend:?}"));
            }
        }
        Ok(Slots { cluster: all, local })
    }

    /// What must hold of maps whoever asks: whole sets, marked endpoints, members that say the same, and nothing left over.
    pub fn check(&self, own: &[IpAddr]) -> Result<(), String> {
        let mut live = BTreeSet::new();
        let mut members: BTreeMap<MemberKey, Member> = BTreeMap::new();
        let mut with_members = BTreeSet::new();
        for frontend in self.asked_for().map(|(_, frontend)| frontend) {
            let slots = self.slots(frontend)?;
            let blocks = (frontend.count + frontend.local_count).div_ceil(BACKEND_BLOCK);
            live.extend((0..blocks).map(|block| (frontend.service, frontend.revision, block)));
            for (set, flag) in [(&slots.cluster, MEMBER_CLUSTER), (&slots.local, MEMBER_LOCAL)] {
                for backend in set {
                    let node = own.contains(&socket(backend).ip());
                    if (backend.flags == BACKEND_NODE) != node {
                        return Err(format!("{backend:?} is wrongly marked"));
                    }
                    members
                        .entry(member_key(frontend.service, socket(backend)))
                        .or_default()
                        .flags |= flag;
                }
            }
            if frontend.flags & FRONTEND_MEMBERS != 0 {
                with_members.insert(frontend.service);
            }
        }
        members.retain(|key, _| with_members.contains(&key.service));
        for (key, member) in &members {
            let found = self.members.get(key).map(|found| found.flags);
            if found != Some(member.flags) {
                return Err(format!(
                    "member {key:?} has flags {found:?}, not {:?}",
                    member.flags
                ));
            }
        }
        let extra = |key: &&MemberKey| !with_members.contains(&key.service);
        if let Some(key) = self.members.keys().find(extra) {
            return Err(format!("member {key:?} of a Service that needs none"));
        }
        let stale = self
            .backends
            .keys()
            .find(|key| !live.contains(&(key.service, key.revision, key.block)));
        stale.map_or(Ok(()), |key| Err(format!("block {key:?} is nobody's")))
    }

    /// The frontends that clients ask, without those that only refuse or remember.
    fn asked_for(&self) -> impl Iterator<Item = (&FrontendKey, &Frontend)> {
        self.frontends
            .iter()
            .filter(|(key, frontend)| planned::is_asked(key, frontend))
    }

    /// The endpoints that datagram flows of a frontend may stay with; `None` where it keeps no list.
    pub fn members_of(&self, key: &FrontendKey) -> Option<BTreeSet<SocketAddr>> {
        let frontend = self.frontends.get(key)?;
        let own = self
            .members
            .keys()
            .filter(|member| member.service == frontend.service);
        let address = |member: &MemberKey| SocketAddr::new(member.addr.into(), u16::from_be(member.port_be));
        let listed = frontend.flags & FRONTEND_MEMBERS != 0;
        listed.then(|| own.map(address).collect())
    }

    /// The same with ids and revisions taken out: what two ways to one state must agree in.
    pub fn meaning(&self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        for (key, frontend) in self.asked_for() {
            let slots = self.slots(frontend)?;
            let sorted = |set: &[Backend]| -> Vec<String> {
                let mut texts: Vec<_> = set
                    .iter()
                    .map(|one| format!("{}/{}", socket(one), one.flags))
                    .collect();
                texts.sort();
                texts
            };
            let ranges: Vec<String> = self
                .ranges
                .iter()
                .filter(|range| {
                    range.service_be == frontend.service.to_be() && frontend.flags & FRONTEND_RANGES != 0
                })
                .map(|range| format!("{}/{}", IpAddr::from(range.addr), range.length))
                .collect();
            lines.push(format!(
                "{}:{}/{} flags {:#x} affinity {} maglev {} cluster {:?} local {:?} members {:?} ranges {ranges:?}",
                IpAddr::from(key.addr),
                u16::from_be(key.port_be),
                key.proto,
                frontend.flags,
                frontend.affinity_seconds,
                frontend.maglev,
                sorted(&slots.cluster),
                sorted(&slots.local),
                self.members_of(key),
            ));
        }
        let guards = self
            .frontends
            .iter()
            .filter(|(key, frontend)| frontend.service == GUARD && **key != WATERMARK);
        lines.extend(guards.map(|(key, _)| format!("{} refuses", IpAddr::from(key.addr))));
        Ok(lines)
    }
}

/// Who gets which set, and who is masqueraded.
fn policy(flags: u32, place: Place, masquerade_all: bool) -> (bool, bool) {
    let local = flags & FRONTEND_LOCAL != 0;
    let pod = matches!(place, Place::Pod | Place::RemotePod);
    if flags & FRONTEND_EXTERNAL == 0 {
        return (local, masquerade_all || !pod);
    }
    match (local, pod, place) {
        (false, ..) => (false, true),
        (true, true, _) => (false, false),
        (true, _, Place::Host) => (false, true),
        _ => (true, false),
    }
}

fn member_key(service: u32, endpoint: SocketAddr) -> MemberKey {
    MemberKey {
        addr: endpoint.ip().into(),
        service,
        port_be: endpoint.port().to_be(),
        reserved: 0,
    }
}

fn socket(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be))
}

/// An address as one number, in the order a trie walks it.
fn bits(address: Addr) -> u128 {
    address
        .0
        .iter()
        .fold(0, |sum, word| sum << 32 | u128::from(u32::from_be(*word)))
}
