//! The maps as they are, and the writes that make them what they should be.
//!
//! The order of a plan keeps every moment whole: stale frontends out; ranges, slots, tables and members in under a new revision;
//! frontends flipped to it; stale slots and members out. **Members that no longer serve are marked before the flip and removed after
//! it**: removed before, a plan that was cut off in between could not tell that flows to them must be looked at anew; removed
//! after it without a mark, a flow could be confirmed in between. A plan that is cut off anywhere leaves maps that the next one repairs.

use std::collections::{BTreeMap, BTreeSet};

use keelson_abi::{
    BACKEND_BLOCK, Backend, BackendBlock, BackendKey, Frontend, FrontendKey, MaglevBlock, MaglevKey, Member,
    MemberKey, SourceRangeKey,
};

/// Service id of the entries that refuse undefined ports of a known address: no real Service has it.
pub const GUARD: u32 = u32::MAX;

/// Key of the entry that remembers which ids were ever given: its `revision` is the first one that was not. No packet asks it,
/// since nothing is sent to the unspecified address. It lives as long as the maps do, and so as long as flows.
pub const WATERMARK: FrontendKey = FrontendKey {
    addr: keelson_abi::Addr([0; 4]),
    port_be: 0,
    proto: 0,
    reserved: 0,
};

/// The maps as they are. Keys stand behind the Service id, so that what one id has is one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The `frontend` map.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// The `backend` map.
    pub backends: BTreeMap<BackendKey, BackendBlock>,
    /// The `member` map.
    pub members: BTreeMap<(u32, MemberKey), Member>,
    /// Keys of the `maglev` map. A frontend names a revision only when its table is whole, so the values need not be known.
    pub maglev: BTreeSet<MaglevKey>,
    /// The `source_range` map.
    pub ranges: BTreeSet<(u32, SourceRangeKey)>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Delete from `frontend`.
    RemoveFrontend(FrontendKey),
    /// Write to `source_range`.
    PutRange(SourceRangeKey),
    /// Write to `backend`.
    PutBackend(BackendKey, BackendBlock),
    /// Write to `maglev`.
    PutMaglev(MaglevKey, Box<MaglevBlock>),
    /// Write to `member`.
    PutMember(MemberKey, Member),
    /// Write to `frontend`.
    PutFrontend(FrontendKey, Frontend),
    /// Delete from `backend`.
    RemoveBackend(BackendKey),
    /// Delete from `maglev`.
    RemoveMaglev(MaglevKey),
    /// Delete from `member`.
    RemoveMember(MemberKey),
    /// Delete from `source_range`.
    RemoveRange(SourceRangeKey),
}

/// A UDP endpoint that stopped serving a Service. The programs choose anew for flows to it by themselves; this frees their places, and
/// sockets that were connected to it can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// [`Frontend::service`].
    pub service: u32,
    /// The endpoint.
    pub endpoint: Backend,
}

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Writes to the maps.
    pub writes: Vec<Write>,
    /// Afterwards, in no hurry: UDP endpoints that stopped serving.
    pub gone: BTreeSet<Gone>,
    /// Afterwards, in no hurry: ids whose clients' affinity is forgotten, because it was switched off.
    pub forget_affinity: BTreeSet<u32>,
}

impl Plan {
    /// Whether the maps are as they should be.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.gone.is_empty() && self.forget_affinity.is_empty()
    }
}

impl Observed {
    /// What a write does to the maps.
    pub fn follow(&mut self, write: &Write) {
        match write {
            Write::RemoveFrontend(key) => drop(self.frontends.remove(key)),
            Write::PutFrontend(key, value) => drop(self.frontends.insert(*key, *value)),
            Write::RemoveBackend(key) => drop(self.backends.remove(key)),
            Write::PutBackend(key, value) => drop(self.backends.insert(*key, *value)),
            Write::RemoveMaglev(key) => drop(self.maglev.remove(key)),
            Write::PutMaglev(key, _) => drop(self.maglev.insert(*key)),
            Write::RemoveMember(key) => drop(self.members.remove(&(key.service, *key))),
            Write::PutMember(key, value) => drop(self.members.insert((key.service, *key), *value)),
            Write::RemoveRange(key) => drop(self.ranges.remove(&(u32::from_be(key.service_be), *key))),
            Write::PutRange(key) => drop(self.ranges.insert((u32::from_be(key.service_be), *key))),
        }
    }

    /// The slots that a frontend names, Cluster ones first; `None` where a block is missing.
    pub fn slots(&self, frontend: &Frontend) -> Option<Vec<Backend>> {
        let total = frontend.count.checked_add(frontend.local_count)?;
        let blocks = total.div_ceil(BACKEND_BLOCK);
        let key = |block| BackendKey {
            service: frontend.service,
            revision: frontend.revision,
            block,
        };
        let found = self.backends.range(key(0)..key(blocks));
        let slots: Vec<Backend> = found
            .flat_map(|(_, block)| block.slots)
            .take(total as usize)
            .collect();
        (slots.len() == total as usize).then_some(slots)
    }

    /// The members of an id.
    pub fn members_of(&self, service: u32) -> impl Iterator<Item = (&MemberKey, &Member)> {
        let from = |service| {
            let key = MemberKey {
                addr: keelson_abi::Addr([0; 4]),
                service: 0,
                port_be: 0,
                reserved: 0,
            };
            (service, key)
        };
        self.members
            .range(from(service)..from(service.saturating_add(1)))
            .map(|((_, key), member)| (key, member))
    }

    /// The ranges of an id.
    pub fn ranges_of(&self, service: u32) -> impl Iterator<Item = &SourceRangeKey> {
        let from = |service| (service, SourceRangeKey::default());
        self.ranges
            .range(from(service)..from(service.saturating_add(1)))
            .map(|(_, key)| key)
    }

    /// The blocks of an id, of all revisions.
    pub fn blocks_of(&self, service: u32) -> impl Iterator<Item = &BackendKey> {
        self.backends.range(whole(service)).map(|(key, _)| key)
    }

    /// The table blocks of an id, of all revisions.
    pub fn tables_of(&self, service: u32) -> impl Iterator<Item = &MaglevKey> {
        self.maglev.range(whole(service))
    }

    /// Every id that has anything but a frontend.
    pub fn ids(&self) -> BTreeSet<u32> {
        let blocks = self.backends.keys().chain(&self.maglev).map(|key| key.service);
        let members = self.members.keys().map(|(service, _)| *service);
        let ranges = self.ranges.iter().map(|(service, _)| *service);
        blocks.chain(members).chain(ranges).collect()
    }
}

/// The range of all blocks of an id.
pub(super) fn whole(service: u32) -> std::ops::RangeInclusive<BackendKey> {
    let key = |revision, block| BackendKey {
        service,
        revision,
        block,
    };
    key(0, 0)..=key(u32::MAX, u32::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
