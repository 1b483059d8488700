//! Medians with their spread, and ratios of pairs: a machine's speed drifts, so two things are compared within a round.

use serde::{Deserialize, Serialize};

/// One row of `target/bench/latest.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Figure {
    /// What was measured, e.g. `cni_add_ms`.
    pub name: String,
    /// Median of the rounds.
    pub value: f64,
    /// `ms`, `MB`, `%`, or empty for a ratio.
    pub unit: String,
    /// What it was measured beside, in the same run.
    pub peer: Option<String>,
    /// Median of the ratios to the peer, formed within each round.
    pub ratio: Option<f64>,
    /// 5th percentile of the rounds.
    pub low: f64,
    /// 95th percentile of the rounds.
    pub high: f64,
}

/// Median, 5th and 95th percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// 5th percentile.
    pub low: f64,
    /// 95th percentile.
    pub high: f64,
}

/// Summarise rounds; `None` without any.
pub fn spread(rounds: &[f64]) -> Option<Spread> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(Spread {
        median: at(&sorted, 0.5)?,
        low: at(&sorted, 0.05)?,
        high: at(&sorted, 0.95)?,
    })
}

/// The ratios `ours / peer`, round by round. A round whose peer is not positive says nothing and is left out.
pub fn pairwise(ours: &[f64], peer: &[f64]) -> Vec<f64> {
    ours.iter()
        .zip(peer)
        .filter(|(_, peer)| **peer > 0.0)
        .map(|(ours, peer)| ours / peer)
        .collect()
}

impl Figure {
    /// A figure of its own; `None` without rounds.
    pub fn alone(name: &str, unit: &str, rounds: &[f64]) -> Option<Self> {
        let Spread { median, low, high } = spread(rounds)?;
        Some(Self {
            name: name.into(),
            value: median,
            unit: unit.into(),
            peer: None,
            ratio: None,
            low,
            high,
        })
    }

    /// The same, measured beside a peer in the same rounds.
    pub fn beside(self, peer: &str, ours: &[f64], peers: &[f64]) -> Self {
        let ratio = spread(&pairwise(ours, peers)).map(|spread| spread.median);
        Self {
            peer: Some(peer.into()),
            ratio,
            ..self
        }
    }
}

/// Linear interpolation between the two nearest ranks.
fn at(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q * last as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    Some(below + (above - below) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_two_middle_rounds() {
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]).map(|s| s.median), Some(2.5));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_ratio_is_formed_within_its_round() {
        // The machine slowed down tenfold in the second round; the ratio does not see it.
        let ratios = pairwise(&[2.0, 20.0], &[1.0, 10.0]);
        assert_eq!(ratios, [2.0, 2.0]);
        let figure =
            Figure::alone("x", "ms", &[2.0, 20.0]).map(|f| f.beside("p", &[2.0, 20.0], &[1.0, 10.0]));
        assert_eq!(figure.and_then(|f| f.ratio), Some(2.0));
    }

    #[test]
    fn a_round_without_a_peer_is_left_out() {
        assert_eq!(pairwise(&[1.0, 2.0], &[0.0, 1.0]), [2.0]);
    }
}
