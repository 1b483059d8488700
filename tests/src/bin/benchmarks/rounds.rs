//! How often something is measured, and when the machine is calm enough for it.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A look at the processors takes this long.
const LOOK: Duration = Duration::from_millis(100);
/// Waiting for a calm machine ends here: what is busy for longer is busy for the other side of the round, too.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Calm is this share of all processors' time idle.
const CALM: f64 = 0.8;
/// Ahead of what else runs, behind what keeps the machine alive.
const NICE: libc::c_int = -10;

/// Rounds within bounds: a slow machine measures fewer of them, but never fewer than the least that says something.
pub struct Rounds {
    least: usize,
    most: usize,
    end: Instant,
    next: usize,
}

impl Rounds {
    /// Between `least` and `most`, none begun after `budget` once there are enough.
    pub fn new(least: usize, most: usize, budget: Duration) -> Self {
        Self {
            least,
            most,
            end: Instant::now() + budget,
            next: 0,
        }
    }
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let round = self.next;
        if round >= self.most || (round >= self.least && Instant::now() >= self.end) {
            return None;
        }
        self.next += 1;
        Some(round)
    }
}

/// Wait for a calm machine, for a bounded time.
pub fn calm() -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let before = processors()?;
        thread::sleep(LOOK);
        let after = processors()?;
        let (idle, total) = (after.0 - before.0, after.1 - before.1);
        if total > 0 && idle as f64 / total as f64 >= CALM {
            break;
        }
    }
    Ok(())
}

/// This thread, and what it starts from now on, goes ahead of what else runs on the machine: both sides of a comparison alike.
pub fn ahead() -> io::Result<()> {
    // SAFETY: no memory is involved; 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Idle and total time of all processors since the machine started, in ticks.
fn processors() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let idle = ticks.iter().skip(3).take(2).sum();
    Ok((idle, ticks.iter().take(8).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_still_gives_the_least_number_of_rounds() {
        assert_eq!(Rounds::new(3, 9, Duration::ZERO).count(), 3);
        assert_eq!(Rounds::new(3, 9, Duration::from_secs(3600)).count(), 9);
    }

    #[test]
    fn idle_time_is_part_of_all_time() {
        let (idle, total) = processors().expect("/proc/stat");
        assert!(idle > 0 && idle <= total, "{idle} of {total}");
    }
}
