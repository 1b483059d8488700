//! What the tests must leave as it was: devices, named namespaces, mounts, settings, cgroups, pins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::run;

/// The kernel takes namespaces and cgroups away a little after their last process.
const PATIENCE: Duration = Duration::from_secs(5);

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
            found.extend(
                before
                    .difference(after)
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

fn settings() -> BTreeSet<String> {
    let mut paths = vec![
        "net/ipv4/ip_forward".to_owned(),
        "net/ipv4/ip_local_reserved_ports".to_owned(),
    ];
    for device in ["all", "default", "lo"] {
        for key in ["forwarding", "accept_local", "route_localnet", "rp_filter"] {
            paths.push(format!("net/ipv4/conf/{device}/{key}"));
        }
    }
    let read = |path: String| {
        Some(format!(
            "{path} = {}",
            fs::read_to_string(Path::new("/proc/sys").join(&path))
                .ok()?
                .trim()
        ))
    };
    paths.into_iter().filter_map(read).collect()
}

/// Cgroups of ours at the top of any hierarchy.
fn cgroups() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let roots = table
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4));
    for root in roots {
        let ours = names(Path::new(root))
            .into_iter()
            .filter(|name| name.contains("keelson") || name.contains("kubepods"));
        found.extend(ours.map(|name| format!("{root}/{name}")));
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
