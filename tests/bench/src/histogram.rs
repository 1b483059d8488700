//! Latencies in constant memory: buckets of 1/32 of a power of two, so a quantile is within 3.2 % of the truth.

use std::time::Duration;

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS) as usize + 1) * SUB as usize;

/// A histogram of durations, nanoseconds inside.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Count one duration.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max = self.max.max(ns);
    }

    /// Add all of another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest duration, exact.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The duration that a share `q` (0–1) of all stays below or at; zero for an empty histogram.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (q.clamp(0.0, 1.0) * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_edge(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros() - SUB_BITS;
    let sub = (ns >> exponent) - SUB;
    ((u64::from(exponent) + 1) * SUB + sub) as usize
}

fn upper_edge(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let exponent = index / SUB - 1;
    let lower = (SUB + index % SUB) << exponent;
    lower + ((1 << exponent) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_one_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000_u64 {
            histogram.record(Duration::from_micros(us));
        }
        for (q, truth) in [(0.5, 5_000_000.0), (0.9, 9_000_000.0), (0.99, 9_900_000.0)] {
            let got = histogram.quantile(q).as_nanos() as f64;
            assert!((got / truth - 1.0).abs() < 0.033, "q {q}: {got} against {truth}");
        }
        assert_eq!(histogram.quantile(1.0), Duration::from_micros(10_000));
    }

    #[test]
    fn every_duration_falls_below_its_buckets_edge() {
        for ns in (0..200).chain([1 << 20, (1 << 20) + 12345, u64::MAX]) {
            let index = bucket(ns);
            assert!(index < BUCKETS, "{ns}");
            assert!(upper_edge(index) >= ns, "{ns}");
            assert!(index == 0 || upper_edge(index - 1) < ns, "{ns}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_latency() {
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
