//! Plans writes for the Services that changed, against a copy of the maps that follows every write.

use std::collections::{BTreeMap, BTreeSet};

use keelson_abi::{
    BACKEND_BLOCK, Backend, BackendBlock, BackendKey, FRONTEND_EXTERNAL, Frontend, FrontendKey, MAGLEV_BLOCK,
    MAGLEV_SIZE, MEMBER_GONE, MaglevBlock, Member, MemberKey, SourceRangeKey,
};

use std::net::IpAddr;

use super::{
    desired::{Group, GroupId},
    maglev,
    plan::{self, GUARD, Gone, Observed, Plan, WATERMARK, Write},
};

/// Ids are reserved in the maps this many at a time.
const RESERVE: u32 = 1024;
/// IPPROTO_UDP.
const UDP: u8 = 17;

/// What the maps hold for a group since it was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// Which group.
    group: GroupId,
    /// Its id in the maps.
    service: u32,
    /// Its frontends.
    frontends: Vec<FrontendKey>,
    /// Endpoints that serve and stand nowhere in the maps: no set has them, and no member map.
    unchosen: Vec<(keelson_abi::Addr, u16)>,
}

/// Plans against its copy of the maps.
#[derive(Debug)]
pub(super) struct Planner {
    maps: Observed,
    claimed: BTreeSet<u32>,
    next_id: u32,
    reserved: u32,
    first_generation: u32,
}

impl Planner {
    /// Start from maps just read. `first_generation` is where the generations of new groups begin: a random number, so that nothing
    /// left behind by another life of an id looks current.
    pub fn new(maps: Observed, first_generation: u32) -> Self {
        let frontends = maps.frontends.values().map(|frontend| frontend.service);
        let highest = frontends
            .filter(|id| *id != GUARD)
            .chain(maps.ids())
            .max()
            .unwrap_or(0);
        let watermark = maps
            .frontends
            .get(&WATERMARK)
            .map_or(0, |frontend| frontend.revision);
        let next_id = watermark.max(highest.saturating_add(1));
        Self {
            maps,
            claimed: BTreeSet::new(),
            next_id,
            reserved: watermark,
            first_generation,
        }
    }

    /// The maps as they are once all plans are carried out.
    pub fn maps(&self) -> &Observed {
        &self.maps
    }

    /// Begin a plan. With `sweep`, all Services are handed in, and what belongs to none of them goes.
    pub fn pass(&mut self, sweep: bool) -> Pass<'_> {
        Pass {
            planner: self,
            sweep,
            phases: Phases::default(),
            wanted: BTreeSet::new(),
            stale: BTreeSet::new(),
            touched: BTreeSet::new(),
            live: BTreeMap::new(),
        }
    }

    /// An id that no flow can belong to.
    fn new_id(&mut self, phases: &mut Phases) -> u32 {
        // Past the last id the lowest ones are taken again: four thousand million Services later.
        if self.next_id == 0 || self.next_id >= GUARD - RESERVE {
            self.next_id = 1;
            self.reserved = 1;
        }
        while self.claimed.contains(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        if self.next_id > self.reserved {
            self.reserved = self.next_id.saturating_add(RESERVE);
            let watermark = Frontend {
                service: GUARD,
                revision: self.reserved,
                ..Frontend::default()
            };
            phases.reserve = vec![Write::PutFrontend(WATERMARK, watermark)];
        }
        id
    }
}

#[derive(Default)]
struct Phases {
    reserve: Vec<Write>,
    remove_frontends: Vec<Write>,
    put: Vec<Write>,
    put_maglev: Vec<Write>,
    put_members: Vec<Write>,
    put_ranges: Vec<Write>,
    put_frontends: Vec<Write>,
    remove: Vec<Write>,
    gone: BTreeSet<Gone>,
    forget_affinity: BTreeSet<u32>,
}

/// What an id has after the pass.
#[derive(Default)]
struct Live {
    revision: u32,
    blocks: u32,
    tables: u32,
    members: bool,
    serving: BTreeSet<(keelson_abi::Addr, u16)>,
    ranges: BTreeSet<SourceRangeKey>,
    udp: bool,
}

/// One plan in the making.
pub(super) struct Pass<'a> {
    planner: &'a mut Planner,
    sweep: bool,
    phases: Phases,
    wanted: BTreeSet<FrontendKey>,
    stale: BTreeSet<FrontendKey>,
    touched: BTreeSet<(u32, bool)>,
    live: BTreeMap<u32, Live>,
}

impl Pass<'_> {
    /// One Service: what it had, and the groups it asks for now (only with frontends that are its own).
    pub fn service(&mut self, mut had: Vec<Holding>, groups: &[Group]) -> Vec<Holding> {
        for holding in &had {
            self.touched.insert((holding.service, holding.group.proto == UDP));
            self.stale.extend(&holding.frontends);
        }
        // Groups that stay keep their ids; what is left over may serve a group that is the same one under another port.
        let mut kept = Vec::new();
        for group in groups {
            let at = had.iter().position(|holding| holding.group == group.id);
            kept.push(at.map(|at| had.swap_remove(at)));
        }
        for left in had {
            self.planner.claimed.remove(&left.service);
        }
        let of_group = groups.iter().zip(kept);
        of_group
            .filter_map(|(group, kept)| self.group(group, kept))
            .collect()
    }

    /// Refuse undefined ports of an address, or stop doing so.
    pub fn guard(&mut self, address: IpAddr, wanted: bool) {
        let key = FrontendKey {
            addr: address.into(),
            port_be: 0,
            proto: 0,
            reserved: 0,
        };
        if !wanted {
            self.stale.insert(key);
            return;
        }
        self.wanted.insert(key);
        let guard = Frontend {
            service: GUARD,
            ..Frontend::default()
        };
        self.put_frontend(key, guard);
    }

    fn group(&mut self, group: &Group, kept: Option<Holding>) -> Option<Holding> {
        let current = self.current(group, kept.as_ref());
        if group.frontends.is_empty() {
            if let Some(kept) = kept {
                self.planner.claimed.remove(&kept.service);
            }
            return None;
        }
        let service = match (&kept, &current) {
            (Some(kept), _) => kept.service,
            (None, Some(current)) => current.service,
            (None, None) => self.planner.new_id(&mut self.phases),
        };
        self.planner.claimed.insert(service);
        let udp = group.id.proto == UDP;
        self.touched.insert((service, udp));
        let lost = self.lost(service, group, current.as_ref(), kept.as_ref());
        let base = self.slots(service, group, current.as_ref(), lost);
        let mut live = Live {
            revision: base.revision,
            blocks: (base.count + base.local_count).div_ceil(BACKEND_BLOCK),
            tables: base.maglev.div_ceil(MAGLEV_BLOCK),
            members: group.has_members(),
            udp,
            ..Live::default()
        };
        self.members(service, group, &mut live);
        self.ranges(service, group, &mut live);
        self.live.insert(service, live);
        for (key, flags) in &group.frontends {
            self.wanted.insert(*key);
            self.put_frontend(
                *key,
                Frontend {
                    flags: *flags,
                    ..base
                },
            );
        }
        if group.affinity_seconds == 0 && current.is_some_and(|current| current.affinity_seconds != 0) {
            self.phases.forget_affinity.insert(service);
        }
        Some(Holding {
            group: group.id,
            service,
            frontends: group.frontends.keys().copied().collect(),
            unchosen: unchosen(group),
        })
    }

    /// What the maps hold for a group: of its id, or, where it has none yet, of the first of its frontends that is there and
    /// nobody else's. Cluster addresses are asked first, since they belong to one Service for its whole life.
    fn current(&self, group: &Group, kept: Option<&Holding>) -> Option<Frontend> {
        let maps = &self.planner.maps.frontends;
        let service = match kept {
            Some(kept) => kept.service,
            None => {
                let is_free = |frontend: &&Frontend| {
                    frontend.service != GUARD && !self.planner.claimed.contains(&frontend.service)
                };
                let mut keys: Vec<_> = group.frontends.iter().collect();
                keys.sort_by_key(|(_, flags)| *flags & FRONTEND_EXTERNAL);
                let mut present = keys.into_iter().filter_map(|(key, _)| maps.get(key));
                present.find(is_free)?.service
            }
        };
        // A plan that was cut off leaves two revisions: the later one has all that the earlier one was to become.
        let before = kept.into_iter().flat_map(|kept| &kept.frontends);
        let keys = group.frontends.keys().chain(before);
        keys.filter_map(|key| maps.get(key))
            .filter(|frontend| frontend.service == service)
            .max_by_key(|frontend| frontend.revision)
            .copied()
    }

    /// Whether an endpoint that flows may lead to stopped serving.
    fn lost(&self, service: u32, group: &Group, current: Option<&Frontend>, kept: Option<&Holding>) -> bool {
        let Some(current) = current else { return false };
        let Some(slots) = self.planner.maps.slots(current) else {
            // A slot that cannot be read back means a write that was cut off: assume the worst.
            return true;
        };
        let mut members = self.planner.maps.members_of(service);
        let mut unchosen = kept.into_iter().flat_map(|kept| &kept.unchosen);
        slots.iter().any(|slot| !serves(group, slot.addr, slot.port_be))
            || members
                .any(|(key, member)| member.flags & MEMBER_GONE != 0 || !serves(group, key.addr, key.port_be))
            || unchosen.any(|(addr, port_be)| !serves(group, *addr, *port_be))
    }

    /// The frontends' common part: of the revision that is there, or of a new one whose slots are written.
    fn slots(&mut self, service: u32, group: &Group, current: Option<&Frontend>, lost: bool) -> Frontend {
        let slots: Vec<Backend> = group.cluster.iter().chain(&group.local).copied().collect();
        let maglev = if group.maglev && !group.cluster.is_empty() {
            MAGLEV_SIZE
        } else {
            0
        };
        let base = Frontend {
            service,
            revision: current.map_or(1, |current| current.revision),
            generation: match current {
                Some(current) => current.generation.wrapping_add(u32::from(lost)),
                None => self.planner.first_generation,
            },
            count: u32::try_from(group.cluster.len()).unwrap_or(u32::MAX),
            local_count: u32::try_from(group.local.len()).unwrap_or(u32::MAX),
            flags: 0,
            affinity_seconds: group.affinity_seconds,
            maglev,
        };
        let maps = &self.planner.maps;
        let is_there = |current: &Frontend| {
            (current.count, current.local_count, current.maglev) == (base.count, base.local_count, maglev)
                && maps.slots(current).as_ref() == Some(&slots)
                && self.table_is_whole(current)
        };
        if current.is_some_and(is_there) {
            return base;
        }
        let base = Frontend {
            revision: self.next_revision(service, current),
            ..base
        };
        self.put_slots(&base, &slots);
        if maglev != 0 {
            self.put_table(&base, &group.cluster);
        }
        base
    }

    /// A revision that no frontend names. After a plan that was cut off a frontend that is to become another group's may still
    /// name a later revision than those that stay: what it names is live until it is written.
    fn next_revision(&self, service: u32, current: Option<&Frontend>) -> u32 {
        let maps = &self.planner.maps;
        let block = maps.backends.range(plan::whole(service)).next_back();
        let table = maps.maglev.range(plan::whole(service)).next_back();
        let written = block
            .map(|(key, _)| key.revision)
            .max(table.map(|key| key.revision));
        let named = current.map(|current| current.revision);
        written.max(named).map_or(1, |last| last.wrapping_add(1))
    }

    fn table_is_whole(&self, frontend: &Frontend) -> bool {
        let key = |block| BackendKey {
            service: frontend.service,
            revision: frontend.revision,
            block,
        };
        let blocks = frontend.maglev.div_ceil(MAGLEV_BLOCK);
        self.planner.maps.maglev.range(key(0)..key(blocks)).count() == blocks as usize
    }

    fn put_slots(&mut self, base: &Frontend, slots: &[Backend]) {
        for (number, chunk) in (0..).zip(slots.chunks(BACKEND_BLOCK as usize)) {
            let key = BackendKey {
                service: base.service,
                revision: base.revision,
                block: number,
            };
            let mut block = BackendBlock::default();
            block.slots[..chunk.len()].copy_from_slice(chunk);
            if self.planner.maps.backends.get(&key) != Some(&block) {
                self.phases.put.push(Write::PutBackend(key, block));
            }
        }
    }

    fn put_table(&mut self, base: &Frontend, endpoints: &[Backend]) {
        let table = maglev::table(endpoints);
        for (number, chunk) in (0..).zip(table.chunks(MAGLEV_BLOCK as usize)) {
            let key = BackendKey {
                service: base.service,
                revision: base.revision,
                block: number,
            };
            let mut slots = [0; MAGLEV_BLOCK as usize];
            slots[..chunk.len()].copy_from_slice(chunk);
            let block = Box::new(MaglevBlock { slots });
            self.phases.put_maglev.push(Write::PutMaglev(key, block));
        }
    }

    fn members(&mut self, service: u32, group: &Group, live: &mut Live) {
        if !live.members {
            return;
        }
        for (backend, flags) in &group.serving {
            live.serving.insert((backend.addr, backend.port_be));
            let key = MemberKey {
                addr: backend.addr,
                service,
                port_be: backend.port_be,
                reserved: 0,
            };
            let member = Member {
                flags: *flags,
                backend_flags: backend.flags,
            };
            if self.planner.maps.members.get(&(service, key)) != Some(&member) {
                self.phases.put_members.push(Write::PutMember(key, member));
            }
        }
        for (key, member) in self.planner.maps.members_of(service) {
            if !live.serving.contains(&(key.addr, key.port_be)) && member.flags & MEMBER_GONE == 0 {
                let gone = Member {
                    flags: MEMBER_GONE,
                    ..*member
                };
                self.phases.put_members.push(Write::PutMember(*key, gone));
            }
        }
    }

    fn ranges(&mut self, service: u32, group: &Group, live: &mut Live) {
        for net in &group.ranges {
            let bits = u32::from(net.prefix_len()) + if net.addr().is_ipv4() { 96 } else { 0 };
            let key = SourceRangeKey {
                length: 32 + bits,
                service_be: service.to_be(),
                addr: net.addr().into(),
            };
            live.ranges.insert(key);
            if !self.planner.maps.ranges.contains(&(service, key)) {
                self.phases.put_ranges.push(Write::PutRange(key));
            }
        }
    }

    fn put_frontend(&mut self, key: FrontendKey, frontend: Frontend) {
        if self.planner.maps.frontends.get(&key) != Some(&frontend) {
            self.phases.put_frontends.push(Write::PutFrontend(key, frontend));
        }
    }

    /// What nobody wants any more goes, and the copy of the maps follows.
    pub fn finish(mut self) -> Plan {
        if self.sweep {
            self.stale.extend(self.planner.maps.frontends.keys());
            let ids = self.planner.maps.ids();
            let known: BTreeSet<u32> = self.touched.iter().map(|(id, _)| *id).collect();
            self.touched.extend(ids.difference(&known).map(|id| (*id, false)));
        }
        self.wanted.insert(WATERMARK);
        for key in self.stale.difference(&self.wanted) {
            if self.planner.maps.frontends.contains_key(key) {
                self.phases.remove_frontends.push(Write::RemoveFrontend(*key));
            }
        }
        for (service, udp) in std::mem::take(&mut self.touched) {
            self.clean(service, udp);
        }
        let Phases {
            reserve,
            remove_frontends,
            put,
            put_maglev,
            put_members,
            put_ranges,
            put_frontends,
            remove,
            gone,
            forget_affinity,
        } = self.phases;
        let mut writes = reserve;
        for phase in [
            remove_frontends,
            put_ranges,
            put,
            put_maglev,
            put_members,
            put_frontends,
            remove,
        ] {
            writes.extend(phase);
        }
        for write in &writes {
            self.planner.maps.follow(write);
        }
        Plan {
            writes,
            gone,
            forget_affinity,
        }
    }

    /// Slots, tables, members and ranges of an id that are not live.
    fn clean(&mut self, service: u32, udp: bool) {
        let nothing = Live::default();
        let live = self.live.get(&service).unwrap_or(&nothing);
        let maps = &self.planner.maps;
        let is_stale = |key: &&BackendKey, blocks: u32| key.revision != live.revision || key.block >= blocks;
        let remove = &mut self.phases.remove;
        let blocks = maps.blocks_of(service).filter(|key| is_stale(key, live.blocks));
        remove.extend(blocks.map(|key| Write::RemoveBackend(*key)));
        let tables = maps.tables_of(service).filter(|key| is_stale(key, live.tables));
        remove.extend(tables.map(|key| Write::RemoveMaglev(*key)));
        for (key, member) in maps.members_of(service) {
            let serves = live.serving.contains(&(key.addr, key.port_be));
            if serves && live.members {
                continue;
            }
            remove.push(Write::RemoveMember(*key));
            if udp || live.udp {
                let endpoint = Backend {
                    addr: key.addr,
                    port_be: key.port_be,
                    flags: member.backend_flags,
                };
                self.phases.gone.insert(Gone { service, endpoint });
            }
        }
        let ranges = maps.ranges_of(service).filter(|key| !live.ranges.contains(key));
        remove.extend(ranges.map(|key| Write::RemoveRange(*key)));
    }
}

/// The list is in the order of addresses and ports.
fn serves(group: &Group, addr: keelson_abi::Addr, port_be: u16) -> bool {
    let order = |addr: keelson_abi::Addr, port_be: u16| (IpAddr::from(addr), u16::from_be(port_be));
    let wanted = order(addr, port_be);
    group
        .serving
        .binary_search_by_key(&wanted, |(backend, _)| order(backend.addr, backend.port_be))
        .is_ok()
}

fn unchosen(group: &Group) -> Vec<(keelson_abi::Addr, u16)> {
    if group.has_members() {
        return Vec::new();
    }
    let unchosen = group.serving.iter().filter(|(_, flags)| *flags == 0);
    unchosen
        .map(|(backend, _)| (backend.addr, backend.port_be))
        .collect()
}
