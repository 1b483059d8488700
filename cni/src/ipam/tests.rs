//! The pool against a plain model, over any sequence of steps.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Memory(BTreeMap<u32, [u8; SLOT_LEN]>);

impl Table for Memory {
    fn get(&self, index: u32) -> Result<Slot, TableError> {
        self.0.get(&index).map_or(Ok(Slot::default()), Slot::decode)
    }
    fn put(&mut self, index: u32, slot: Slot) -> Result<(), TableError> {
        self.0.insert(index, slot.encode());
        Ok(())
    }
}

fn pool(net: &str) -> (Header, Memory) {
    (
        Header::new(Stamp::default(), Range::new(net.parse().unwrap()), 0),
        Memory::default(),
    )
}

#[test]
fn released_addresses_come_back_in_order_of_release_and_not_before_their_time() {
    let (mut header, mut table) = pool("10.0.0.0/30");
    let a = allocate(&mut header, &mut table, 1, 0).unwrap().unwrap();
    let b = allocate(&mut header, &mut table, 2, 0).unwrap().unwrap();
    assert_eq!(
        allocate(&mut header, &mut table, 3, 0).unwrap(),
        Err(Refusal::Exhausted)
    );
    assert!(release(&mut header, &mut table, b.index, 2, 100).unwrap());
    assert!(release(&mut header, &mut table, a.index, 1, 200).unwrap());
    assert!(
        !release(&mut header, &mut table, a.index, 1, 300).unwrap(),
        "released twice"
    );
    let refused = allocate(&mut header, &mut table, 3, 1100).unwrap();
    assert_eq!(
        refused,
        Err(Refusal::Cooling {
            ready_in_ms: COOL_DOWN_MS - 1000
        })
    );
    assert_eq!(
        usage(&header, &table, 1100).unwrap(),
        Usage {
            size: 2,
            used: 0,
            cooling: 2,
            free: 0
        }
    );
    let c = allocate(&mut header, &mut table, 3, COOL_DOWN_MS + 100)
        .unwrap()
        .unwrap();
    assert_eq!(c.index, b.index);
    assert!(c.epoch > b.epoch && b.epoch > a.epoch);
    let d = allocate(&mut header, &mut table, 4, COOL_DOWN_MS + 200)
        .unwrap()
        .unwrap();
    assert_eq!(d.index, a.index);
}

#[test]
fn an_address_can_be_asked_for_by_name() {
    let (mut header, mut table) = pool("10.0.0.0/29");
    assert_eq!(
        allocate_exact(&mut header, &mut table, 0, 1)
            .unwrap()
            .unwrap()
            .index,
        0
    );
    assert_eq!(
        allocate_exact(&mut header, &mut table, 0, 2).unwrap(),
        Err(Refusal::Taken)
    );
    assert_eq!(
        allocate_exact(&mut header, &mut table, 6, 2).unwrap(),
        Err(Refusal::OutOfRange)
    );
    assert_eq!(allocate(&mut header, &mut table, 3, 0).unwrap().unwrap().index, 1);
    assert!(release(&mut header, &mut table, 0, 1, 5).unwrap());
    assert_eq!(
        allocate_exact(&mut header, &mut table, 0, 4)
            .unwrap()
            .unwrap()
            .index,
        0,
        "cooling does not count"
    );
    assert_eq!(header.head, 0);
}

#[test]
fn only_the_owner_can_release() {
    let (mut header, mut table) = pool("10.0.0.0/29");
    let a = allocate(&mut header, &mut table, 1, 0).unwrap().unwrap();
    assert!(!release(&mut header, &mut table, a.index, 2, 0).unwrap());
    assert!(!release(&mut header, &mut table, 99, 1, 0).unwrap());
    assert_eq!(header.used, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Exact(u32),
    Release(usize),
    Wait(u64),
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Allocate),
        1 => (0u32..8).prop_map(Step::Exact),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (0u64..60_000).prop_map(Step::Wait),
        1 => Just(Step::Rebuild),
    ]
}

proptest! {
    #[test]
    fn no_address_has_two_owners_and_none_is_lost(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut header, mut table) = pool("10.0.0.0/29");
        let (mut now, mut next_owner, mut last_epoch) = (0, 1, 0);
        let mut owned: Vec<Owner> = Vec::new();
        let mut released: HashMap<u32, u64> = HashMap::new();
        for step in steps {
            let granted = match step {
                Step::Allocate => allocate(&mut header, &mut table, next_owner, now).unwrap(),
                Step::Exact(index) => allocate_exact(&mut header, &mut table, index, next_owner).unwrap(),
                Step::Release(which) if !owned.is_empty() => {
                    let owner = owned.remove(which % owned.len());
                    prop_assert!(release(&mut header, &mut table, owner.index, owner.hash, now).unwrap());
                    released.insert(owner.index, now);
                    continue;
                }
                Step::Release(_) => continue,
                Step::Wait(ms) => { now += ms; continue; }
                Step::Rebuild => {
                    let old: Vec<_> = (0..6).map(|i| (i, table.get(i).unwrap())).collect();
                    table = Memory::default();
                    let (stamp, range) = (header.stamp, header.range);
                    header = rebuild(stamp, range, &owned, &old, last_epoch, now, &mut table).unwrap();
                    continue;
                }
            };
            match granted {
                Ok(Grant { index, epoch }) => {
                    prop_assert!(owned.iter().all(|o| o.index != index), "{index} given twice");
                    prop_assert!(epoch > last_epoch);
                    if matches!(step, Step::Allocate) && let Some(at) = released.get(&index) {
                        prop_assert!(at + COOL_DOWN_MS <= now, "{index} given while cooling");
                    }
                    last_epoch = epoch;
                    owned.push(Owner { hash: next_owner, index, epoch });
                    next_owner += 1;
                }
                Err(Refusal::Exhausted) => prop_assert_eq!(owned.len(), 6),
                Err(Refusal::Cooling { ready_in_ms }) => {
                    prop_assert!(0 < ready_in_ms && ready_in_ms <= COOL_DOWN_MS);
                    let busy: HashSet<u32> = owned.iter().map(|o| o.index).chain(released.keys().copied()).collect();
                    prop_assert_eq!(busy.len(), 6, "there was a fresh one");
                }
                Err(Refusal::Taken) | Err(Refusal::OutOfRange) => prop_assert!(matches!(step, Step::Exact(_))),
            }
            let usage = usage(&header, &table, now).unwrap();
            prop_assert_eq!(usage.used as usize, owned.len());
            prop_assert_eq!(usage.used + usage.cooling + usage.free, 6);
        }
    }

    #[test]
    fn a_rebuild_from_damaged_slots_never_takes_an_owners_address(
        slots in proptest::collection::vec((0u32..20, 0u32..3, any::<u64>(), any::<u32>()), 0..20),
        owners in proptest::collection::hash_map(0u32..20, any::<u32>(), 0..8),
    ) {
        let states = [State::Fresh, State::Used, State::Queued];
        let old: Vec<(u32, Slot)> = slots.iter().map(|(index, state, at, epoch)| (*index, Slot {
            state: states[*state as usize], prev: 9, next: 9, epoch: *epoch / 2, released_ms: *at, owner: 3,
        })).collect();
        let owners: Vec<Owner> = owners.iter()
            .map(|(index, epoch)| Owner { hash: 1 + u64::from(*index), index: *index, epoch: *epoch / 2 }).collect();
        let range = Range::new("10.0.0.0/28".parse().unwrap());
        let mut table = Memory::default();
        let mut header = rebuild(Stamp::default(), range, &owners, &old, 0, 1000, &mut table).unwrap();
        let inside: HashSet<u32> = owners.iter().map(|o| o.index).filter(|i| *i < 14).collect();
        prop_assert_eq!(header.used as usize, inside.len());
        let mut given = HashSet::new();
        while let Ok(grant) = allocate(&mut header, &mut table, 99, 1000 + COOL_DOWN_MS).unwrap() {
            prop_assert!(!inside.contains(&grant.index) && given.insert(grant.index));
        }
        prop_assert_eq!(given.len() + inside.len(), 14, "none is lost");
    }
}
