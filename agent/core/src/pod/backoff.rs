//! How long a crashed container waits: at once the first time, then 10 s, doubled up to 5 minutes; forgotten after 10 minutes of
//! running. (Kubernetes' constants.)

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

/// First wait.
pub const FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
pub const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long starts anew.
pub const FORGET: Duration = Duration::from_secs(600);

/// Waits by container and image: a new image is a new try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoffs(BTreeMap<String, Duration>);

impl Backoffs {
    /// Until when a container that ended waits; `None` = it may start now.
    pub fn until(
        &self,
        key: &str,
        started_at: Option<Timestamp>,
        finished_at: Timestamp,
    ) -> Option<Timestamp> {
        let wait = *self.0.get(key)?;
        if ran_long(started_at, finished_at) {
            return None;
        }
        finished_at.checked_add(SignedDuration::try_from(wait).ok()?).ok()
    }

    /// A container is restarted: the next wait is longer.
    pub fn restarted(&mut self, key: &str, started_at: Option<Timestamp>, finished_at: Timestamp) {
        let next = match self.0.get(key) {
            Some(wait) if !ran_long(started_at, finished_at) => (*wait * 2).min(LONGEST),
            _ => FIRST,
        };
        self.0.insert(key.to_owned(), next);
    }

    /// What a user is told: `back-off 10s restarting failed container`.
    pub fn wait(&self, key: &str) -> Duration {
        self.0.get(key).copied().unwrap_or_default()
    }
}

/// Name of a container's wait.
pub fn key(container: &str, image: &str) -> String {
    format!("{container}|{image}")
}

fn ran_long(started_at: Option<Timestamp>, finished_at: Timestamp) -> bool {
    started_at.is_some_and(|started| {
        Duration::try_from(finished_at.duration_since(started)).is_ok_and(|ran| ran >= FORGET)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("time")
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_double_to_five_minutes() {
        let mut backoffs = Backoffs::default();
        assert_eq!(backoffs.until("c", Some(at(0)), at(1)), None);
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoffs.restarted("c", Some(at(0)), at(1));
            waits.push(
                backoffs
                    .until("c", Some(at(0)), at(1))
                    .map(|until| until.as_second() - 1),
            );
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300].map(Some));
    }

    #[test]
    fn ten_minutes_of_running_are_forgiven() {
        let mut backoffs = Backoffs::default();
        backoffs.restarted("c", Some(at(0)), at(1));
        backoffs.restarted("c", Some(at(0)), at(1));
        assert_eq!(backoffs.until("c", Some(at(0)), at(600)), None);
        backoffs.restarted("c", Some(at(0)), at(600));
        assert_eq!(backoffs.wait("c"), FIRST);
    }

    #[test]
    fn another_image_is_another_try() {
        let mut backoffs = Backoffs::default();
        backoffs.restarted(&key("c", "a:1"), Some(at(0)), at(1));
        assert_eq!(backoffs.until(&key("c", "a:2"), Some(at(0)), at(1)), None);
    }
}
