//! `tests/CANNOT.md`: what a kernel or runtime at hand cannot run, why, and what covers it instead. A probe that succeeds where the
//! list says "cannot" fails the suite: the test belongs in it from then on.

use std::fs;

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
    let mut failures = Vec::new();
    for Entry { what, probe } in entries {
        if super::shell(&probe) {
            failures.push(format!(
                "tests/CANNOT.md says that {what:?} cannot run here, but its probe succeeds: {probe}"
            ));
        } else {
            println!("cannot run here, covered below: {what}");
        }
    }
    Ok(failures)
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
