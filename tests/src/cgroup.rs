//! One cgroup path in every hierarchy of the machine. Whoever is below it is ended with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// The kernel needs a moment to let go of what was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A path below every hierarchy's mount point.
pub struct Cgroup {
    path: String,
    hierarchies: Vec<PathBuf>,
}

impl Cgroup {
    /// Make it everywhere. `path` begins with '/'.
    pub fn create(path: &str) -> Result<Self> {
        let cgroup = Self {
            path: path.to_owned(),
            hierarchies: hierarchies()?,
        };
        for folder in cgroup.folders("") {
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(cgroup)
    }

    /// Its path, as a runtime wants it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A shell line that moves the shell itself into a child of it; hierarchies that take no processes yet are left out.
    pub fn enter_line(&self, child: &str) -> Result<String> {
        let mut line = String::new();
        for folder in self.folders(child) {
            // A cpuset takes processes only once it has processors.
            if folder.to_string_lossy().contains("cpuset") {
                continue;
            }
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            line.push_str(&format!("echo $$ > {}/cgroup.procs; ", folder.display()));
        }
        Ok(line)
    }

    /// Everyone in it, in any hierarchy.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for folder in self.folders("") {
            collect(&folder, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// End everyone and remove it everywhere.
    pub fn remove(&self) -> Result<()> {
        wait::holds(
            &format!("the processes of {} to end", self.path),
            PATIENCE,
            || {
                for pid in self.processes() {
                    // Gone already is as good.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                Ok(self.processes().is_empty())
            },
        )?;
        wait::holds(&format!("{} to go away", self.path), PATIENCE, || {
            for folder in self.folders("") {
                remove_tree(&folder);
            }
            Ok(self.folders("").iter().all(|folder| !folder.exists()))
        })
    }

    fn folders(&self, child: &str) -> Vec<PathBuf> {
        let below = format!("{}/{child}", self.path.trim_start_matches('/'));
        self.hierarchies
            .iter()
            .map(|root| root.join(below.trim_end_matches('/')))
            .collect()
    }
}

fn collect(folder: &Path, found: &mut Vec<i32>) {
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        procs
            .lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(folder) {
        collect(&child, found);
    }
}

fn remove_tree(folder: &Path) {
    for child in children(folder) {
        remove_tree(&child);
    }
    // Busy for a moment longer: the caller looks again.
    let _ = fs::remove_dir(folder);
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect()
}

/// Mount points of all cgroup file systems.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let cgroups = table.lines().filter(|line| line.contains(" - cgroup"));
    Ok(cgroups
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect())
}
