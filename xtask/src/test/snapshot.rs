//! What the tests must leave as it was: devices, named namespaces, mounts, settings, cgroups, pins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::sweep;
use crate::run;

/// The kernel takes namespaces and cgroups away a little after their last process.
const PATIENCE: Duration = Duration::from_secs(5);

const PROCESS: &str = "process in another network namespace or a cgroup of ours,";

/// Kind → what there is of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Look.
    pub fn take() -> Result<Self> {
        let mut all = BTreeMap::new();
        all.insert("device", devices()?);
        all.insert("named network namespace", names(Path::new("/run/netns")));
        all.insert("mount", mounts()?);
        all.insert("setting", settings());
        all.insert(PROCESS, processes());
        all.insert("cgroup", cgroups()?);
        all.insert("pin", names(Path::new("/sys/fs/bpf")));
        Ok(Self(all))
    }

    /// What differs afterwards, once things that go by themselves have had their time.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut found = self.compare(after);
        while !found.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
            match Self::take() {
                Ok(now) => found = self.compare(&now),
                Err(error) => return vec![format!("looking at the machine again: {error:#}")],
            }
        }
        found
    }

    fn compare(&self, after: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, before) in &self.0 {
            let Some(after) = after.0.get(kind) else { continue };
            found.extend(
                after
                    .difference(before)
                    .map(|what| format!("the tests left {kind} {what}")),
            );
            // Whoever ended meanwhile did so by himself.
            let gone = (*kind != PROCESS).then(|| before.difference(after));
            found.extend(
                gone.into_iter()
                    .flatten()
                    .map(|what| format!("the tests took away {kind} {what}")),
            );
        }
        found
    }
}

fn devices() -> Result<BTreeSet<String>> {
    let text = run::output(Command::new("ip").args(["-o", "link"]))?;
    Ok(text
        .lines()
        .filter_map(|line| Some(line.split(": ").nth(1)?.to_owned()))
        .collect())
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| Some(line.split(' ').nth(4)?.to_owned()))
        .collect())
}

/// Settings that the kernel itself changes while a machine lives.
const RESTLESS: [&str; 4] = ["ns_last_pid", "perf_event_max_sample_rate", "random", "pty"];

fn settings() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["net", "kernel", "vm"] {
        collect_settings(&Path::new("/proc/sys").join(root), &mut found);
    }
    found
}

fn collect_settings(path: &Path, found: &mut BTreeSet<String>) {
    if RESTLESS.iter().any(|name| path.ends_with(name)) {
        return;
    }
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if meta.is_dir() {
        for name in names(path) {
            collect_settings(&path.join(name), found);
        }
    } else if meta.permissions().mode() & 0o222 != 0
        && let Ok(value) = fs::read_to_string(path)
    {
        found.insert(format!("{} = {}", path.display(), value.trim()));
    }
}

/// Processes in another network namespace, or below cgroups of ours. (Another mount namespace alone says nothing: system
/// services have one each, and come and go.)
fn processes() -> BTreeSet<String> {
    let ours = fs::read_link("/proc/self/ns/net").ok();
    let mut found = BTreeSet::new();
    for pid in names(Path::new("/proc"))
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok())
    {
        let folder = Path::new("/proc").join(&pid);
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        let namespace = fs::read_link(folder.join("ns/net")).ok();
        let foreign = namespace.is_some() && namespace != ours;
        let groups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        if groups.split('/').any(sweep::is_in_use) {
            continue;
        }
        if foreign || groups.contains("keelson-") || groups.contains("kubepods") {
            found.insert(format!("{pid} {}", name.trim()));
        }
    }
    found
}

/// Cgroups of ours at the top of any hierarchy.
fn cgroups() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for root in sweep::hierarchies()? {
        let ours = names(&root).into_iter().filter(|name| !sweep::is_in_use(name));
        let ours = ours.filter(|name| {
            ["keelson", "kubepods", "k8s.io"]
                .iter()
                .any(|part| name.contains(part))
        });
        found.extend(ours.map(|name| format!("{}/{name}", root.display())));
    }
    Ok(found)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(devices: &[&str]) -> Snapshot {
        Snapshot(BTreeMap::from([(
            "device",
            devices.iter().map(|d| (*d).to_owned()).collect(),
        )]))
    }

    #[test]
    fn what_was_left_and_what_was_taken_are_both_told() {
        let found = of(&["lo", "eth0"]).compare(&of(&["lo", "veth1"]));
        assert_eq!(
            found,
            ["the tests left device veth1", "the tests took away device eth0"]
        );
        assert!(of(&["lo"]).compare(&of(&["lo"])).is_empty());
    }
}
