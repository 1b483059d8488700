//! How many pods each generation shall have: the step from what is to what the Deployment asks for, never further than its
//! strategy allows.

use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Generation,
    pods::Member,
    template::{Generations, count},
};

/// How far a rolling update may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pods there may be at most, both generations together.
    pub most: i32,
    /// Pods that must be available.
    pub available: i32,
}

/// The limits of a Deployment: surge is rounded up, unavailability down, and if both are nothing one pod may be missing.
pub fn limits(spec: &DeploymentSpec) -> Limits {
    let replicas = wanted(spec);
    let rolling = spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let get = |field: fn(&RollingUpdateDeployment) -> Option<&IntOrString>, up| {
        let value = rolling.and_then(field).unwrap_or(&quarter);
        scaled(value, replicas, up).unwrap_or(0)
    };
    let surge = get(|rolling| rolling.max_surge.as_ref(), true);
    let mut missing = get(|rolling| rolling.max_unavailable.as_ref(), false).min(replicas);
    if is_recreate(spec) {
        return Limits {
            most: replicas,
            available: replicas,
        };
    }
    if surge == 0 && missing == 0 {
        missing = 1;
    }
    Limits {
        most: replicas.saturating_add(surge),
        available: (replicas - missing).max(0),
    }
}

/// How many pods the Deployment asks for.
pub fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

/// Whether all old pods go before the first new one comes.
pub fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("Recreate")
}

/// Move the generations' numbers one step.
pub(super) fn advance(spec: &DeploymentSpec, members: &[Member<'_>], known: &mut Generations) {
    match known.current {
        // Paused: scale what is there, replace nothing.
        _ if spec.paused == Some(true) => scale_only(wanted(spec), known),
        None => {}
        Some(current) if is_recreate(spec) => recreate(wanted(spec), current, members, known),
        Some(current) => roll(wanted(spec), limits(spec), current, members, known),
    }
}

fn scale_only(wanted: i32, known: &mut Generations) {
    let total: i32 = known.all.iter().map(|one| one.replicas).sum();
    let mut missing = wanted - total;
    // The newest one grows or shrinks first.
    for one in known.all.iter_mut().rev() {
        if missing > 0 && one.template.is_none() {
            continue;
        }
        let new = one.replicas.saturating_add(missing).max(0);
        missing -= new - one.replicas;
        one.replicas = new;
    }
}

fn recreate(wanted: i32, current: usize, members: &[Member<'_>], known: &mut Generations) {
    let hash = known.all[current].hash.clone();
    for (_, old) in known.all.iter_mut().enumerate().filter(|(at, _)| *at != current) {
        old.replicas = 0;
    }
    let old_are_gone = !members.iter().any(|member| member.hash != hash && !member.over);
    // Until then not even a new pod that was lost is made again.
    let there = members
        .iter()
        .filter(|member| member.active() && member.hash == hash)
        .count();
    let new = &mut known.all[current];
    new.replicas = if old_are_gone {
        wanted
    } else {
        new.replicas.min(count(there)).min(wanted)
    };
}

fn roll(wanted: i32, limits: Limits, current: usize, members: &[Member<'_>], known: &mut Generations) {
    let counts: Vec<i32> = known
        .all
        .iter()
        .map(|one| {
            count(
                members
                    .iter()
                    .filter(|member| member.available && member.hash == one.hash)
                    .count(),
            )
        })
        .collect();
    keep_floor(limits.available, &counts, known);
    // Pods beyond a generation's number are about to be ended and serve no longer.
    let available: Vec<i32> = counts
        .iter()
        .zip(&known.all)
        .map(|(count, one)| *count.min(&one.replicas))
        .collect();
    shrink_to(limits.most, current, &available, known);
    let total = |known: &Generations| known.all.iter().map(|one| one.replicas).sum::<i32>();
    let all = total(known);
    let new = &mut known.all[current];
    let room = (limits.most - all).max(0);
    new.replicas = (new.replicas + room).min(wanted);

    // Old pods that serve nobody go first, as many as may be missing while new ones are not there yet.
    let unready = new.replicas - available[current];
    let mut spare = (total(known) - limits.available - unready).max(0);
    for at in (0..known.all.len()).filter(|at| *at != current) {
        let old = &mut known.all[at];
        let useless = (old.replicas - available[at]).clamp(0, spare);
        old.replicas -= useless;
        spare -= useless;
    }
    // Then those that do serve, as many as are available beyond the floor.
    let mut beyond = available.iter().sum::<i32>() - limits.available;
    for at in (0..known.all.len()).filter(|at| *at != current) {
        let old = &mut known.all[at];
        let step = old.replicas.clamp(0, beyond.max(0));
        old.replicas -= step;
        beyond -= step;
    }
}

/// After a scaling down the numbers may be more than is allowed: what serves nobody is not wanted any more.
fn shrink_to(most: i32, current: usize, available: &[i32], known: &mut Generations) {
    let mut excess = known.all.iter().map(|one| one.replicas).sum::<i32>() - most;
    let old = (0..known.all.len()).filter(|at| *at != current);
    for at in old.chain([current]) {
        let one = &mut known.all[at];
        let cut = (one.replicas - available[at]).clamp(0, excess.max(0));
        one.replicas -= cut;
        excess -= cut;
    }
}

/// Pods that were to end, did not, and serve by now are kept as far as they are needed.
fn keep_floor(floor: i32, available: &[i32], known: &mut Generations) {
    let serving = |(count, one): (&i32, &Generation)| *count.min(&one.replicas);
    let mut missing = floor - available.iter().zip(&known.all).map(serving).sum::<i32>();
    for (count, one) in available.iter().zip(&mut known.all).rev() {
        let more = (count - one.replicas).clamp(0, missing.max(0));
        one.replicas += more;
        missing -= more;
    }
}

/// A number of pods, or a share of `replicas` rounded up or down. `None` if it is neither, or negative.
pub fn scaled(value: &IntOrString, replicas: i32, up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => (*number >= 0).then_some(*number),
        IntOrString::String(text) => {
            let share: i64 = text.strip_suffix('%')?.parse().ok()?;
            if share < 0 {
                return None;
            }
            let product = share.checked_mul(i64::from(replicas))?;
            let rounded = if up {
                product.checked_add(99)? / 100
            } else {
                product / 100
            };
            i32::try_from(rounded).ok()
        }
    }
}
