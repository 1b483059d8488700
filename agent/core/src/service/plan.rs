//! The steps from the maps as they are to the maps as they should be.
//!
//! The order keeps every moment whole: stale frontends out, new slots in under a new revision, frontends flipped to it,
//! stale slots out, UDP flows forgotten. A crash between any two steps leaves maps that the next plan repairs. Ids are read back
//! from the maps, so nothing but the maps remembers them.

use std::collections::{BTreeMap, BTreeSet};

use keelson_abi::{BACKEND_BLOCK, Backend, BackendBlock, BackendKey, Frontend, FrontendKey};

use super::desired::{Desired, Group};

/// Service id of the entries that refuse undefined ports of a known address: no real Service has it.
pub const GUARD: u32 = u32::MAX;
const UDP: u8 = 17;

/// The two maps as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The `frontend` map.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// The `backend` map.
    pub backends: BTreeMap<BackendKey, BackendBlock>,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete from `frontend`.
    RemoveFrontend(FrontendKey),
    /// Write to `backend`.
    PutBackend(BackendKey, BackendBlock),
    /// Write to `frontend`.
    PutFrontend(FrontendKey, Frontend),
    /// Delete from `backend`.
    RemoveBackend(BackendKey),
    /// Delete the UDP flows of this Service id: the programs choose anew anyway, this frees their places.
    ForgetUdpFlows {
        /// [`Frontend::service`].
        service: u32,
    },
}

/// The steps in order; empty = settled. `first_generation` is where the generations of new Services begin: a random number, since
/// the maps forget a deleted Service's id, and a flow of its last holder must not look like one of the next.
pub fn plan(desired: &Desired, observed: &Observed, first_generation: u32) -> Vec<Step> {
    let mut planner = Planner {
        observed,
        claimed: BTreeSet::new(),
        next_id: 1,
        first_generation,
        steps: Steps::default(),
    };
    planner.reserve(desired);
    let mut wanted: BTreeMap<FrontendKey, Frontend> = BTreeMap::new();
    let mut live: BTreeSet<BackendKey> = BTreeSet::new();
    for address in &desired.guards {
        let key = FrontendKey {
            addr: (*address).into(),
            port_be: 0,
            proto: 0,
            reserved: 0,
        };
        wanted.insert(
            key,
            Frontend {
                service: GUARD,
                ..Frontend::default()
            },
        );
    }
    for group in &desired.groups {
        planner.group(group, &mut wanted, &mut live);
    }
    planner.finish(&wanted, &live)
}

#[derive(Default)]
struct Steps {
    remove_frontends: Vec<Step>,
    put_backends: Vec<Step>,
    put_frontends: Vec<Step>,
    remove_backends: Vec<Step>,
    forget: BTreeSet<u32>,
}

struct Planner<'a> {
    observed: &'a Observed,
    claimed: BTreeSet<u32>,
    next_id: u32,
    first_generation: u32,
    steps: Steps,
}

impl Planner<'_> {
    /// New ids start above every id in use, so that a flow of an old Service never points to a new one.
    fn reserve(&mut self, desired: &Desired) {
        let frontends = self.observed.frontends.values().map(|frontend| frontend.service);
        let backends = self.observed.backends.keys().map(|key| key.service);
        let highest = frontends
            .chain(backends)
            .filter(|id| *id != GUARD)
            .max()
            .unwrap_or(0);
        let needed = u32::try_from(desired.groups.len()).unwrap_or(u32::MAX);
        // Ids run for 2^32 Services; past that the lowest free ones are taken again.
        self.next_id = if highest < GUARD - needed { highest + 1 } else { 1 };
    }

    fn group(
        &mut self,
        group: &Group,
        wanted: &mut BTreeMap<FrontendKey, Frontend>,
        live: &mut BTreeSet<BackendKey>,
    ) {
        let current = self.current(group);
        let slots: Vec<Backend> = group
            .backends
            .iter()
            .map(|backend| Backend::from(*backend))
            .collect();
        let old = current.map(|frontend| self.slots(frontend)).unwrap_or_default();
        let base = match current {
            Some(frontend) if old.len() == frontend.count as usize && same_set(&old, &slots) => frontend,
            _ => self.next_revision(current, &old, &slots),
        };
        self.claimed.insert(base.service);
        let count = base.count;
        live.extend((0..count.div_ceil(BACKEND_BLOCK)).map(|block| BackendKey {
            service: base.service,
            revision: base.revision,
            block,
        }));
        for (key, flags) in &group.frontends {
            wanted.insert(
                *key,
                Frontend {
                    flags: *flags,
                    affinity_seconds: group.affinity_seconds,
                    ..base
                },
            );
        }
        let udp = group.frontends.keys().any(|key| key.proto == UDP);
        if udp && current.is_some_and(|frontend| frontend.generation != base.generation) {
            self.steps.forget.insert(base.service);
        }
    }

    /// What the maps hold for a group: the first of its frontends that is there and not another group's.
    fn current(&self, group: &Group) -> Option<Frontend> {
        let present = group
            .frontends
            .keys()
            .filter_map(|key| self.observed.frontends.get(key));
        present
            .copied()
            .find(|frontend| frontend.service != GUARD && !self.claimed.contains(&frontend.service))
    }

    fn slots(&self, frontend: Frontend) -> Vec<Backend> {
        let Frontend {
            service,
            revision,
            count,
            ..
        } = frontend;
        let key = |block| BackendKey {
            service,
            revision,
            block,
        };
        let blocks = self
            .observed
            .backends
            .range(key(0)..key(count.div_ceil(BACKEND_BLOCK)));
        blocks
            .flat_map(|(_, block)| block.slots)
            .take(count as usize)
            .collect()
    }

    /// Write the endpoints under the next revision. The generation moves only when an endpoint went away: flows to those that
    /// stayed are left alone.
    fn next_revision(&mut self, current: Option<Frontend>, old: &[Backend], slots: &[Backend]) -> Frontend {
        let (service, revision, generation) = match current {
            Some(frontend) => (
                frontend.service,
                frontend.revision.wrapping_add(1),
                frontend.generation,
            ),
            None => (self.new_id(), 1, self.first_generation),
        };
        let lost = old.iter().any(|backend| !slots.contains(backend))
            // A slot that cannot be read back means a write that was cut off: assume the worst.
            || current.is_some_and(|frontend| frontend.count as usize != old.len());
        for (number, chunk) in (0..).zip(slots.chunks(BACKEND_BLOCK as usize)) {
            let key = BackendKey {
                service,
                revision,
                block: number,
            };
            let mut block = BackendBlock::default();
            block.slots[..chunk.len()].copy_from_slice(chunk);
            if self.observed.backends.get(&key) != Some(&block) {
                self.steps.put_backends.push(Step::PutBackend(key, block));
            }
        }
        let generation = if lost {
            generation.wrapping_add(1)
        } else {
            generation
        };
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        Frontend {
            service,
            revision,
            count,
            generation,
            ..Frontend::default()
        }
    }

    fn new_id(&mut self) -> u32 {
        let used = |id: u32, planner: &Self| {
            planner.claimed.contains(&id)
                || planner
                    .observed
                    .frontends
                    .values()
                    .any(|frontend| frontend.service == id)
        };
        while used(self.next_id, self) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn finish(mut self, wanted: &BTreeMap<FrontendKey, Frontend>, live: &BTreeSet<BackendKey>) -> Vec<Step> {
        for (key, frontend) in &self.observed.frontends {
            if !wanted.contains_key(key) {
                self.steps.remove_frontends.push(Step::RemoveFrontend(*key));
                if key.proto == UDP {
                    self.steps.forget.insert(frontend.service);
                }
            }
        }
        for (key, frontend) in wanted {
            if self.observed.frontends.get(key) != Some(frontend) {
                self.steps.put_frontends.push(Step::PutFrontend(*key, *frontend));
            }
        }
        let stale = self.observed.backends.keys().filter(|key| !live.contains(key));
        self.steps
            .remove_backends
            .extend(stale.map(|key| Step::RemoveBackend(*key)));
        let Steps {
            remove_frontends,
            put_backends,
            put_frontends,
            remove_backends,
            forget,
        } = self.steps;
        let forget = forget.into_iter().map(|service| Step::ForgetUdpFlows { service });
        let writes = remove_frontends
            .into_iter()
            .chain(put_backends)
            .chain(put_frontends)
            .chain(remove_backends);
        writes.chain(forget).collect()
    }
}

/// Slots are chosen at random, so their order means nothing; both sides hold each endpoint once.
fn same_set(old: &[Backend], new: &[Backend]) -> bool {
    old.len() == new.len() && new.iter().all(|backend| old.contains(backend))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
