//! Targets, the table, and the file other programs read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use keelson_bench::stats::{Figure, Spread, spread};

use crate::machine;

/// What a figure should reach.
pub struct Target {
    /// Its name.
    pub figure: &'static str,
    /// The bound, and whether the value may reach it from below (or from above).
    pub bound: f64,
    /// Small is good.
    pub at_most: bool,
    /// In words.
    pub text: &'static str,
}

/// All of them, in the order of the table.
pub const TARGETS: [Target; 16] = [
    at_most(
        "pod_start_over_cri_ms",
        25.0,
        "≤ 25 ms: the agent's share of a pod's start",
    ),
    at_most(
        "burst30_over_cri_ratio",
        1.15,
        "≤ 1.15: 30 pods at once, over a bare client",
    ),
    at_most("cni_add_ms", 3.0, "≤ 3 ms"),
    at_most("cni_check_ms", 2.0, "≤ 2 ms"),
    Target {
        figure: "rr_clusterip_over_direct_ratio",
        bound: 0.95,
        at_most: false,
        text: "≥ 0.95: TCP request/response through a ClusterIP, over direct",
    },
    Target {
        figure: "crr_30k_over_10_ratio",
        bound: 0.97,
        at_most: false,
        text: "≥ 0.97: new connections/s with 30,000 Services, over 10",
    },
    at_most(
        "agent_rss_30pods_mb",
        40.0,
        "≤ 40 MB with 30 pods, each probed every 10 s",
    ),
    at_most(
        "prog_new_flow_over_floor_ratio",
        1.5,
        "≤ 1.5: a first packet, over the same operations alone",
    ),
    at_most(
        "prog_established_over_floor_ratio",
        1.3,
        "≤ 1.3: a packet of a flow, likewise",
    ),
    at_most(
        "endpoint_to_map_ms_p50",
        1.0,
        "≤ 1 ms: an endpoint change, to the map",
    ),
    at_most("endpoint_to_map_ms_p99", 5.0, "≤ 5 ms"),
    at_most("cold_sync_50k_s", 1.5, "≤ 1.5 s: 50,000 Services from nothing"),
    at_most("proxy_rss_30k_mib", 150.0, "≤ 150 MiB at 30,000 Services"),
    at_most("maps_30k_mb", 60.0, "≤ 60 MB at 30,000 Services"),
    at_most("maps_10_mb", 4.0, "≤ 4 MB at 10 Services"),
    at_most("agent_idle_cpu_pct", 1.0, "≤ 1 % of a core, the same pods"),
];

const fn at_most(figure: &'static str, bound: f64, text: &'static str) -> Target {
    Target {
        figure,
        bound,
        at_most: true,
        text,
    }
}

impl Target {
    /// Whether a value reaches it.
    pub fn is_met(&self, value: f64) -> bool {
        if self.at_most {
            value <= self.bound
        } else {
            value >= self.bound
        }
    }
}

/// A figure with what it was made of.
pub struct Measured {
    /// For the file.
    pub figure: Figure,
    /// How many rounds.
    pub rounds: usize,
    /// Absolute values behind it.
    pub note: String,
}

impl Measured {
    /// The figure is the median of `rounds`; `ours` and `peers` are what was measured in each of them.
    pub fn beside(
        name: &str,
        unit: &str,
        rounds: &[f64],
        peer: &str,
        (ours, peers): (&[f64], &[f64]),
        absolute: &str,
    ) -> Result<Self> {
        let figure = Figure::alone(name, unit, rounds).with_context(|| format!("{name}: no round"))?;
        Ok(Self {
            figure: figure.beside(peer, ours, peers),
            rounds: rounds.len(),
            note: format!("{} against {} {absolute}", middle(ours)?, middle(peers)?),
        })
    }

    /// A figure without a peer.
    pub fn alone(name: &str, unit: &str, rounds: &[f64], note: String) -> Result<Self> {
        Ok(Self {
            figure: Figure::alone(name, unit, rounds).with_context(|| format!("{name}: no round"))?,
            rounds: rounds.len(),
            note,
        })
    }
}

/// Median and spread in a few characters.
pub fn middle(rounds: &[f64]) -> Result<String> {
    let Spread { median, low, high } = spread(rounds).context("no round")?;
    Ok(format!("{} ({}–{})", number(median), number(low), number(high)))
}

fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/latest.json")
}

/// Put the figures into `target/bench/latest.json`; those that were not measured now stay as they are there.
pub fn save(measured: &[Measured]) -> Result<()> {
    let path = file();
    let text = fs::read_to_string(&path).unwrap_or_default();
    // A file of an older shape is replaced.
    let mut figures: Vec<Figure> = serde_json::from_str(&text).unwrap_or_default();
    for new in measured {
        figures.retain(|old| old.name != new.figure.name);
        figures.push(new.figure.clone());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(&figures)?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// The table.
pub fn print(measured: &[Measured], took: Duration) -> Result<()> {
    let [hardware, programs] = machine::describe();
    println!("Machine: {hardware}.  ");
    println!("Beside: {programs}. Took {} s.\n", took.as_secs());
    println!("| figure | median | 5–95 % | rounds | ratio to peer | what was compared | target | met |");
    println!("|---|---|---|---|---|---|---|---|");
    for target in &TARGETS {
        let Some(Measured { figure, rounds, note }) =
            measured.iter().find(|result| result.figure.name == target.figure)
        else {
            continue;
        };
        let compared = match &figure.peer {
            Some(peer) => format!("{note}; peer: {peer}"),
            None => note.clone(),
        };
        println!(
            "| `{}` | **{}** {} | {}–{} | {rounds} | {} | {compared} | {} | {} |",
            figure.name,
            number(figure.value),
            figure.unit,
            number(figure.low),
            number(figure.high),
            figure.ratio.map_or("–".to_owned(), number),
            target.text,
            if target.is_met(figure.value) {
                "yes"
            } else {
                "**no**"
            },
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_that_should_be_large_is_missed_from_below() {
        let rr = TARGETS
            .iter()
            .find(|target| target.figure.starts_with("rr_"))
            .expect("a target");
        assert!(rr.is_met(0.96) && !rr.is_met(0.94));
        assert!(TARGETS[0].is_met(20.0) && !TARGETS[0].is_met(30.0));
    }

    #[test]
    fn a_figure_beside_a_peer_tells_both() -> Result<()> {
        let measured = Measured::beside("x", "ms", &[1.0], "p", (&[3.0], &[2.0]), "ms")?;
        assert_eq!(measured.note, "3.00 (3.00–3.00) against 2.00 (2.00–2.00) ms");
        assert_eq!(measured.figure.ratio, Some(1.5));
        Ok(())
    }
}
