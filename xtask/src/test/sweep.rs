//! What a suite that was cut off left behind: nodes whose test no longer runs are ended by their cgroups, so that the next
//! suite starts on a clean machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::run;

/// Processes that were killed are gone after this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// The harness names a node's cgroup by this, its own process and a number.
const PREFIX: &str = "keelson-test-";

/// End the nodes of tests that no longer run.
pub fn sweep() -> Result<()> {
    for root in hierarchies()? {
        for folder in children(&root) {
            let name = folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if owner(&name).is_none() || is_in_use(&name) {
                continue;
            }
            run::step(format!(
                "removing what an earlier suite left: {}",
                folder.display()
            ));
            remove(&folder)?;
        }
    }
    Ok(())
}

/// Mount points of all cgroup file systems.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let cgroups = table.lines().filter(|line| line.contains(" - cgroup"));
    Ok(cgroups
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect())
}

/// Whether a cgroup's name is that of a node whose test runs: when our own have ended, it is another suite's.
pub fn is_in_use(name: &str) -> bool {
    owner(name).is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

/// The process of the test whose node a cgroup of this name belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn remove(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        end(folder);
        if !folder.exists() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} has processes that do not end",
            folder.display()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Kill whoever is in it, and remove what is empty; children first.
fn end(folder: &Path) {
    for child in children(folder) {
        end(&child);
    }
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines() {
        // Gone already is as good.
        run::succeeds(Command::new("kill").args(["-KILL", pid]));
    }
    // Busy for a moment longer: the caller comes again.
    let _ = fs::remove_dir(folder);
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cgroups_of_test_nodes_have_an_owner() {
        assert_eq!(owner("keelson-test-12-3"), Some(12));
        assert_eq!(owner("keelson-demo"), None);
        assert_eq!(owner("system.slice"), None);
        assert!(is_in_use(&format!("keelson-test-{}-0", std::process::id())));
    }
}
