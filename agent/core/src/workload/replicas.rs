//! The pods follow the numbers: which are made, which are ended.

use jiff::{SignedDuration, Timestamp};

use super::{
    Generation,
    pods::{Member, State, earliest},
};
use crate::object::Key;

/// A pod that failed is kept for this long, for its user to look at.
const FAILED_KEPT: SignedDuration = SignedDuration::from_mins(10);
/// And no more than these.
const FAILED_MOST: usize = 5;
/// The second failure delays the next pod by this much, each further one doubles it: a pod that the node refuses would
/// otherwise be made again as fast as the machine can.
const FAILED_DELAY: SignedDuration = SignedDuration::from_secs(10);

/// What is to be done to the pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Steps {
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<(Key, String)>,
    pub(super) again: Option<Timestamp>,
}

pub(super) fn steps(generations: &[Generation], members: &[Member<'_>], now: Timestamp) -> Steps {
    let mut steps = Steps::default();
    for generation in generations {
        one(generation, members, now, &mut steps);
    }
    // Pods of generations that are not known any more.
    for member in members.iter().filter(|member| member.state == State::Finished) {
        if !generations.iter().any(|one| one.hash == member.hash) {
            steps.end(member);
        }
    }
    steps
}

fn one(generation: &Generation, members: &[Member<'_>], now: Timestamp, steps: &mut Steps) {
    let of = |state| {
        members
            .iter()
            .filter(move |member| member.hash == generation.hash && member.state == state)
    };
    let mut active: Vec<&Member<'_>> = of(State::Active).collect();
    let wanted = usize::try_from(generation.replicas).unwrap_or(0);
    let hold = failed(of(State::Finished).collect(), wanted, now, steps);
    if active.len() > wanted {
        active.sort_by_cached_key(|member| member.rank());
        active[..active.len() - wanted]
            .iter()
            .for_each(|member| steps.end(member));
    } else if active.len() < wanted && generation.template.is_some() {
        match hold {
            Some(until) => steps.again = earliest([steps.again, Some(until)]),
            None => steps.create.extend(std::iter::repeat_n(
                generation.hash.clone(),
                wanted - active.len(),
            )),
        }
    }
}

/// Remove failed pods that were kept long enough; when the next pod may be made, if not now.
fn failed(
    mut failed: Vec<&Member<'_>>,
    wanted: usize,
    now: Timestamp,
    steps: &mut Steps,
) -> Option<Timestamp> {
    let at = |member: &Member<'_>| member.finished_at().unwrap_or(Timestamp::MIN);
    failed.sort_by_cached_key(|member| std::cmp::Reverse(at(member)));
    let kept: Vec<&Member<'_>> = failed
        .iter()
        .enumerate()
        .filter(|(index, member)| {
            *index < FAILED_MOST && wanted > 0 && now.duration_since(at(member)) < FAILED_KEPT
        })
        .map(|(_, member)| *member)
        .collect();
    failed
        .iter()
        .skip(kept.len())
        .for_each(|member| steps.end(member));
    let last = at(kept.last()?);
    let latest = at(kept.first()?);
    steps.again = earliest([steps.again, last.checked_add(FAILED_KEPT).ok()]);
    let doublings = u32::try_from(kept.len()).unwrap_or(0).checked_sub(2)?;
    let until = latest
        .checked_add(FAILED_DELAY * 2_i32.pow(doublings.min(8)))
        .ok()?;
    (until > now).then_some(until)
}

impl Steps {
    fn end(&mut self, member: &Member<'_>) {
        let metadata = &member.pod.metadata;
        self.delete
            .push((Key::of(metadata), metadata.uid.clone().unwrap_or_default()));
    }
}
