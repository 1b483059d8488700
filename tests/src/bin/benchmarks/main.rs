//! The node beside its peers: a bare client of the container runtime, a reference plugin, a direct connection. A machine's speed drifts,
//! so both sides of a comparison run in the same round, in turns, and the figure is formed within the round.
//!
//! | room | figures |
//! |---|---|
//! | `pods` | `pod_start_over_cri_ms`, `burst30_over_cri_ratio` |
//! | `plugin` | `cni_add_ms`, `cni_check_ms` |
//! | `traffic` | `rr_clusterip_over_direct_ratio` |
//! | `scale` | `crr_30k_over_10_ratio` |
//! | `programs` | `prog_new_flow_over_floor_ratio`, `prog_established_over_floor_ratio` |
//! | `services` | `endpoint_to_map_ms_p50`, `endpoint_to_map_ms_p99`, `cold_sync_50k_s`, `proxy_rss_30k_mib`, `maps_30k_mb`, `maps_10_mb` |
//! | `footprint` | `agent_rss_30pods_mb`, `agent_idle_cpu_pct` |
//! | `lab` | a node without a runtime: the dataplane alone |
//! | `rounds` | how often, how long, and when the machine is calm enough |
//! | `machine` | what all of it ran on |
//! | `report` | targets, the table, `target/bench/latest.json` |

mod footprint;
mod lab;
mod machine;
mod plugin;
mod pods;
mod programs;
mod report;
mod rounds;
mod scale;
mod services;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::node::{Node, Options};
use report::{Measured, TARGETS};

const HELP: &str = "keelson-benchmarks [--only FIGURE]...

Measures the release binaries beside it; figures go to target/bench/latest.json, a table to standard output.
With --only, the other figures in that file stay as they are.";

/// What is measured together, and how.
struct Group {
    figures: &'static [&'static str],
    measure: fn() -> Result<Vec<Measured>>,
}

const GROUPS: [Group; 8] = [
    Group {
        figures: &services::FIGURES,
        measure: services::measure,
    },
    Group {
        figures: &programs::FIGURES,
        measure: programs::measure,
    },
    Group {
        figures: &plugin::FIGURES,
        measure: plugin::measure,
    },
    Group {
        figures: &traffic::FIGURES,
        measure: traffic::measure,
    },
    Group {
        figures: &scale::FIGURES,
        measure: scale::measure,
    },
    Group {
        figures: &footprint::FIGURES,
        measure: footprint::measure,
    },
    Group {
        figures: &pods::START,
        measure: pods::start,
    },
    Group {
        figures: &pods::BURST,
        measure: pods::burst,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    if let Some((services::CHILD, rest)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return services::run_child(rest);
    }
    let Some(only) = parse(arguments)? else {
        println!("{HELP}\n\nFigures:");
        for target in TARGETS {
            println!("  {:<32} {}", target.figure, target.text);
        }
        return Ok(());
    };
    let started = Instant::now();
    let mut measured = Vec::new();
    let mut failed = Vec::new();
    for group in GROUPS {
        if !only.is_empty() && !group.figures.iter().any(|figure| only.contains(figure)) {
            continue;
        }
        eprintln!("measuring {}", group.figures.join(", "));
        match (group.measure)() {
            Ok(results) => measured.extend(results),
            Err(error) => {
                eprintln!("{}: {error:#}", group.figures.join(", "));
                failed.push(group.figures.join(", "));
            }
        }
    }
    measured.retain(|result| only.is_empty() || only.contains(&result.figure.name.as_str()));
    report::save(&measured)?;
    report::print(&measured, started.elapsed())?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

/// The figures asked for, none for all; `None` = help is asked for.
fn parse(arguments: &[String]) -> Result<Option<Vec<&str>>> {
    let mut only = Vec::new();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--only" => {
                let figure = words.next().context("--only needs the name of a figure")?;
                ensure!(
                    TARGETS.iter().any(|target| target.figure == figure),
                    "there is no figure {figure:?}; --help names them"
                );
                only.push(figure);
            }
            "--help" | "-h" => return Ok(None),
            other => bail!("unknown argument {other:?}\n\n{HELP}"),
        }
    }
    Ok(Some(only))
}

/// A node with the release binaries.
fn node(agent: bool, images: Vec<&'static str>) -> Result<Node> {
    Node::start(Options {
        agent,
        images,
        binaries: Some(binaries()?),
        ..Options::default()
    })
}

/// The folder of the release binaries, whichever way this program was built.
fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe().context("asking for our own path")?;
    let target = own.ancestors().nth(2).context("we are not in a target folder")?;
    let folder = target.join("release");
    for name in ["keelson", "keelson-cni"] {
        let path = folder.join(name);
        ensure!(
            path.is_file(),
            "{} is missing: `cargo xtask bench` builds it",
            path.display()
        );
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_target_and_is_measured_once() {
        let mut measured: Vec<&str> = GROUPS.iter().flat_map(|group| group.figures).copied().collect();
        let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.figure).collect();
        measured.sort_unstable();
        targets.sort_unstable();
        assert_eq!(measured, targets);
    }

    #[test]
    fn an_unknown_figure_is_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(parse(&words("--only no_such")).is_err());
        assert!(parse(&words("--only")).is_err());
        assert_eq!(
            parse(&words("--only cni_add_ms")).expect("a figure"),
            Some(vec!["cni_add_ms"])
        );
        assert_eq!(parse(&words("--help")).expect("help"), None);
    }
}
