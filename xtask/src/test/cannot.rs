//! `tests/CANNOT.md`: what a kernel or runtime at hand cannot run, why, and what covers it instead. A probe that succeeds on a
//! machine like the one the list was made on fails the suite: the test belongs in it from then on.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::run;

/// One entry of the list.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    what: String,
    probe: String,
}

/// Probe every entry; what comes back are the failures.
pub fn check() -> Result<Vec<String>> {
    let path = run::workspace().join("tests/CANNOT.md");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let entries = parse(&text);
    ensure!(
        !entries.is_empty(),
        "{} has no entry with a probe",
        path.display()
    );
    let recorded = text.lines().find_map(|line| line.strip_prefix("recorded on: "));
    let recorded = recorded.with_context(|| format!("{} has no `recorded on:`", path.display()))?;
    let here = machine()?;
    let mut failures = Vec::new();
    for Entry { what, probe } in entries {
        if !super::shell(&probe) {
            println!("cannot run here, covered otherwise: {what}");
        } else if here == recorded {
            failures.push(format!(
                "tests/CANNOT.md says that {what:?} cannot run here, but its probe succeeds: {probe}"
            ));
        } else {
            println!(
                "could run here ({here}), but nobody has tried: {what}. The list was made on {recorded}"
            );
        }
    }
    Ok(failures)
}

/// Kernel and runtime as the list names them.
fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's version")?;
    let containerd = run::output(Command::new("containerd").arg("--version"))?;
    let runc = run::output(Command::new("runc").arg("--version"))?;
    Ok(format!(
        "Linux {}, containerd {}, runc {}",
        version(&kernel),
        version(&containerd),
        version(&runc)
    ))
}

/// Major and minor of the first word that looks like a version.
fn version(text: &str) -> String {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()) && word.contains('.'));
    word.unwrap_or_default()
        .split(['.', '-', '~', '+'])
        .take(2)
        .collect::<Vec<_>>()
        .join(".")
}

/// Headings are the entries; a line `probe: ` with a command in backticks belongs to the heading above it.
fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut what = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut what);
        }
        if let Some(probe) = line
            .strip_prefix("probe: `")
            .and_then(|rest| rest.strip_suffix('`'))
        {
            entries.push(Entry {
                what: what.clone(),
                probe: probe.to_owned(),
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("6.18.44\n"), "6.18");
        assert_eq!(
            version("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1"),
            "1.6"
        );
        assert_eq!(version("runc version 1.1.5+ds1\ncommit: x"), "1.1");
        assert_eq!(version("containerd github.com/x/y/v2 v2.1.9 abc"), "2.1");
        assert_eq!(version("nothing"), "");
    }

    #[test]
    fn every_heading_with_a_probe_is_an_entry() {
        let found = parse("# T\n\n## a thing\nwhy\nprobe: `test -e /x`\n\n## no probe\n");
        assert_eq!(
            found,
            [Entry {
                what: "a thing".into(),
                probe: "test -e /x".into()
            }]
        );
    }
}
