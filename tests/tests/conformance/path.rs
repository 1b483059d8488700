//! Whatever way objects took, the maps end as if only their last state had ever been; also when the agent dies in the middle.

use keelson_core::service::{plan::Plan, state::Services};
use keelson_tests::oracle::{Cluster, generate};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use crate::{
    planned::{self, Objects},
    reader::Maps,
};

/// One change of the whole: what it leads to, the order of its parts, and where the agent dies, if it does.
#[derive(Clone, Debug)]
struct Change {
    to: Cluster,
    order: Vec<Index>,
    /// After so many of the writes of the plan of the part at the index.
    death: Option<(Index, Index)>,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let death = option::weighted(0.4, (any::<Index>(), any::<Index>()));
    let change = (generate::cluster(), vec(any::<Index>(), 8), death);
    vec(
        change.prop_map(|(to, order, death)| Change { to, order, death }),
        1..5,
    )
}

/// One part of a change.
enum Part {
    Node,
    Service(keelson_core::object::Key),
    Slice(keelson_core::object::Key),
}

/// What differs, in an order of the test's choosing.
fn parts(before: &Objects, after: &Objects, order: &[Index]) -> Vec<Part> {
    let mut parts = vec![Part::Node];
    let services = before.services.keys().chain(after.services.keys());
    let slices = before.slices.keys().chain(after.slices.keys());
    parts.extend(services.map(|key| Part::Service(key.clone())));
    parts.extend(slices.map(|key| Part::Slice(key.clone())));
    for (at, index) in order.iter().enumerate() {
        let (at, other) = (at % parts.len(), index.index(parts.len()));
        parts.swap(at, other);
    }
    parts
}

/// Carry a plan out, to its end or not; at every moment each frontend has all of its slots.
fn carry_out(maps: &mut Maps, plan: &Plan, most: usize) -> Result<(), String> {
    for write in plan.writes.iter().take(most) {
        planned::write(maps, write);
        for frontend in maps.frontends.values() {
            maps.slots(frontend)
                .map_err(|error| format!("after {write:?}: {error}"))?;
        }
    }
    Ok(())
}

/// An agent that just began: it knows the objects, and reads the maps.
fn newborn(cluster: &Cluster, maps: &Maps) -> Services {
    let mut services = planned::informed(cluster);
    services.observe(planned::observed(maps), 77);
    services
}

fn go(maps: &mut Maps, services: &mut Services, before: &mut Objects, change: &Change) -> Result<(), String> {
    let after = Objects::of(&change.to);
    let parts = parts(before, &after, &change.order);
    let death = change.death.map(|(part, write)| (part.index(parts.len()), write));
    for (number, part) in parts.iter().enumerate() {
        match part {
            Part::Node => services.set_node(planned::node_view(&change.to)),
            Part::Service(key) => services.set_service(key, after.services.get(key).cloned()),
            Part::Slice(key) => services.set_slice(key, after.slices.get(key).cloned()),
        }
        let plan = services.plan().plan;
        if let Some((_, write)) = death.filter(|(part, _)| *part == number) {
            carry_out(maps, &plan, write.index(plan.writes.len() + 1))?;
            // The next agent sees the objects as they are then.
            *services = newborn(&change.to, maps);
            let plan = services.plan().plan;
            carry_out(maps, &plan, usize::MAX)?;
            break;
        }
        carry_out(maps, &plan, usize::MAX)?;
    }
    *before = after;
    Ok(())
}

#[test]
fn every_way_to_a_state_ends_in_the_same_maps() -> Result<(), String> {
    let cases = generate::cases(1_500, 30_000).div_ceil(generate::ASKS);
    generate::check("path independence", cases * 4, &changes(), |changes| {
        let mut maps = Maps::default();
        let mut objects = Objects::default();
        let mut services = Services::default();
        services.observe(planned::observed(&maps), 1);
        for change in &changes {
            go(&mut maps, &mut services, &mut objects, change)?;
        }
        let last = &changes[changes.len() - 1].to;
        maps.check(&last.node.addresses)?;
        let (found, expected) = (maps.meaning()?, planned::maps_of(last).meaning()?);
        if found != expected {
            return Err(format!("the maps hold {found:#?}\nand should hold {expected:#?}"));
        }
        // Settled: neither this agent nor the next has anything to do.
        for (who, services) in [
            ("this agent", &mut services),
            ("the next", &mut newborn(last, &maps)),
        ] {
            let rest = services.plan().plan;
            if !rest.is_empty() {
                return Err(format!("{who} would still do {rest:?}"));
            }
        }
        Ok(())
    })
}
