//! What a node should say before something is exhausted, and when it is: once, and again when it has gone on for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// From here on a map is told of, in percent of what fits.
const HIGH: u64 = 75;
/// Below this it is told that the pressure is gone. Lower, so that a map at the border is not told of again and again.
const LOW: u64 = 60;
/// A reason that goes on is told again this often.
const AGAIN: Duration = Duration::from_secs(60);

/// A turn that a user should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A map fills up: name, entries, what fits.
    Pressure(String, u64, u64),
    /// It has room again.
    Relief(String, u64, u64),
}

/// Which maps are told of.
#[derive(Clone, Debug, Default)]
pub struct Pressures {
    high: BTreeSet<String>,
}

impl Pressures {
    /// The maps as they are now: name, entries, what fits.
    pub fn observe<'a>(&mut self, fills: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (map, entries, capacity) in fills {
            if capacity == 0 {
                continue;
            }
            let percent = entries.saturating_mul(100) / capacity;
            let known = self.high.contains(map);
            if !known && percent >= HIGH {
                self.high.insert(map.to_owned());
                turns.push(Turn::Pressure(map.to_owned(), entries, capacity));
            } else if known && percent < LOW {
                self.high.remove(map);
                turns.push(Turn::Relief(map.to_owned(), entries, capacity));
            }
        }
        turns
    }
}

/// How often each reason is told; what is not told is counted.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    told: BTreeMap<u32, (Duration, u64)>,
}

impl Limits {
    /// One more of this reason. `Some`: tell it, with the number of those since it was told last.
    pub fn count(&mut self, reason: u32, now: Duration) -> Option<u64> {
        let Some((last, since)) = self.told.get_mut(&reason) else {
            self.told.insert(reason, (now, 0));
            return Some(1);
        };
        *since += 1;
        if now.saturating_sub(*last) < AGAIN {
            return None;
        }
        let count = std::mem::take(since);
        *last = now;
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_told_of_once_and_again_only_after_it_had_room() {
        let mut pressures = Pressures::default();
        let mut at = |entries| pressures.observe([("flow", entries, 100), ("none", 0, 0)]);
        assert_eq!(at(74), []);
        assert_eq!(at(75), [Turn::Pressure("flow".to_owned(), 75, 100)]);
        assert_eq!(at(99), []);
        assert_eq!(at(60), [], "at the border nothing is said");
        assert_eq!(at(59), [Turn::Relief("flow".to_owned(), 59, 100)]);
        assert_eq!(at(80), [Turn::Pressure("flow".to_owned(), 80, 100)]);
    }

    #[test]
    fn what_goes_on_is_told_with_how_often_it_happened() {
        let mut limits = Limits::default();
        let second = Duration::from_secs;
        assert_eq!(limits.count(6, second(0)), Some(1));
        assert_eq!(limits.count(6, second(1)), None);
        assert_eq!(limits.count(7, second(1)), Some(1), "another reason");
        assert_eq!(limits.count(6, second(60)), Some(2));
        assert_eq!(limits.count(6, second(61)), None);
    }
}
