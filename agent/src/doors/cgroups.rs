//! Pods' cgroups, on machines of the first generation, the second, or both at once.
//!
//! ```text
//! <parent>/kubepods                       all pods
//! <parent>/kubepods/pod<uid>              Guaranteed
//! <parent>/kubepods/burstable/pod<uid>    Burstable
//! <parent>/kubepods/besteffort/pod<uid>   BestEffort
//! ```
//! The runtime puts containers below the pod's. Limits are written where the controller is; removal looks everywhere,
//! because the runtime makes the path in every hierarchy it knows.

pub mod hierarchies;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hierarchies::{Hierarchy, Kind};
use keelson_core::pod::resources::{CPU_PERIOD, Qos as Tier, Resources as Limits};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The cgroup of all pods, below the configured parent.
const PODS: &str = "kubepods";
/// Weight of all BestEffort pods together: the least there is.
const BEST_EFFORT_SHARES: u64 = 2;
/// Processes that were left behind get SIGKILL; the kernel is given this long to reap them.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No cgroup file system at all.
    #[error(
        "no cgroup file system is mounted at or below {0}; mount one or set `cgroup` in the configuration"
    )]
    None(PathBuf),
    /// Processes do not go away.
    #[error("remove cgroup {0}: its processes are still there after SIGKILL")]
    Busy(PathBuf),
}

/// The door to the cgroup file systems.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Path of all pods, starting with '/'.
    pods: String,
}

impl Cgroups {
    /// Look at this machine's mounts. `parent` is "" or starts with '/'.
    pub fn detect(root: &Path, parent: &str) -> Result<Self, Error> {
        let table = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(table).map_err(|error| file("read", table, error))?;
        let hierarchies = hierarchies::parse(&text, root);
        if hierarchies.is_empty() {
            return Err(Error::None(root.to_owned()));
        }
        Ok(Self::new(hierarchies, parent))
    }

    /// On given hierarchies.
    pub fn new(hierarchies: Vec<Hierarchy>, parent: &str) -> Self {
        Self {
            hierarchies,
            pods: format!("{}/{PODS}", parent.trim_end_matches('/')),
        }
    }

    /// A pod's cgroup as the runtime wants it: a path from the root of every hierarchy.
    pub fn path(&self, tier: Tier, uid: &str) -> String {
        format!("{}/pod{uid}", self.tier_path(tier))
    }

    fn tier_path(&self, tier: Tier) -> String {
        let pods = &self.pods;
        match tier {
            Tier::Guaranteed => pods.clone(),
            Tier::Burstable => format!("{pods}/burstable"),
            Tier::BestEffort => format!("{pods}/besteffort"),
        }
    }

    /// Make a pod's cgroup with its limits. Returns its path. Doing it again only writes the limits again.
    pub fn ensure(&self, tier: Tier, uid: &str, limits: &Limits) -> Result<String, Error> {
        if tier == Tier::BestEffort {
            let path = self.tier_path(tier);
            self.make(&path)?;
            self.write_limits(
                &path,
                &Limits {
                    cpu_shares: BEST_EFFORT_SHARES,
                    ..Limits::default()
                },
            )?;
        }
        let path = self.path(tier, uid);
        self.make(&path)?;
        self.write_limits(&path, limits)?;
        Ok(path)
    }

    /// Weight of all Burstable pods together: the sum of what they request.
    pub fn set_burstable_shares(&self, cpu_shares: u64) -> Result<(), Error> {
        let path = self.tier_path(Tier::Burstable);
        self.make(&path)?;
        self.write_limits(
            &path,
            &Limits {
                cpu_shares: cpu_shares.max(BEST_EFFORT_SHARES),
                ..Limits::default()
            },
        )
    }

    /// Remove a pod's cgroup wherever it is, killing what was left in it. Missing is fine.
    pub fn remove(&self, uid: &str) -> Result<(), Error> {
        let until = Instant::now() + REMOVE_LIMIT;
        for tier in [Tier::Guaranteed, Tier::Burstable, Tier::BestEffort] {
            let path = self.path(tier, uid);
            for hierarchy in &self.hierarchies {
                remove_tree(&below(&hierarchy.mount, &path), until)?;
            }
        }
        Ok(())
    }

    /// UIDs of pods that have a cgroup.
    pub fn pods(&self) -> Vec<String> {
        let mut uids: Vec<String> = [Tier::Guaranteed, Tier::Burstable, Tier::BestEffort]
            .into_iter()
            .map(|tier| self.tier_path(tier))
            .flat_map(|path| {
                self.hierarchies
                    .iter()
                    .map(move |hierarchy| below(&hierarchy.mount, &path))
            })
            .filter_map(|path| fs::read_dir(path).ok())
            .flat_map(|entries| entries.flatten())
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned))
            .collect();
        uids.sort_unstable();
        uids.dedup();
        uids
    }

    /// Make a path in every hierarchy that limits are written to.
    fn make(&self, path: &str) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            if hierarchy.kind == Kind::V2 {
                make_v2(hierarchy, path)?;
            } else if hierarchy.controls("cpu") || hierarchy.controls("memory") {
                let path = below(&hierarchy.mount, path);
                fs::create_dir_all(&path).map_err(|error| file("make cgroup", &path, error))?;
            }
        }
        Ok(())
    }

    fn write_limits(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            let at = below(&hierarchy.mount, path);
            for (controller, name, value) in settings(&hierarchy.kind, limits) {
                if hierarchy.controls(controller) {
                    write(&at.join(name), &value)?;
                }
            }
        }
        Ok(())
    }
}

/// What is written where: controller, file, value.
fn settings(kind: &Kind, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let shares = limits.cpu_shares.clamp(2, 262_144);
    match kind {
        Kind::V1(_) => vec![
            ("cpu", "cpu.shares", shares.to_string()),
            ("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()),
            (
                "cpu",
                "cpu.cfs_quota_us",
                limits
                    .cpu_quota
                    .map_or("-1".to_owned(), |quota| quota.to_string()),
            ),
            (
                "memory",
                "memory.limit_in_bytes",
                limits.memory.map_or("-1".to_owned(), |bytes| bytes.to_string()),
            ),
        ],
        Kind::V2 => {
            let quota = limits
                .cpu_quota
                .map_or("max".to_owned(), |quota| quota.to_string());
            vec![
                // Shares of 2…262144 become a weight of 1…10000.
                (
                    "cpu",
                    "cpu.weight",
                    (1 + (shares - 2) * 9999 / 262_142).to_string(),
                ),
                ("cpu", "cpu.max", format!("{quota} {CPU_PERIOD}")),
                (
                    "memory",
                    "memory.max",
                    limits.memory.map_or("max".to_owned(), |bytes| bytes.to_string()),
                ),
            ]
        }
    }
}

/// In the second generation a parent hands controllers to its children by name.
fn make_v2(hierarchy: &Hierarchy, path: &str) -> Result<(), Error> {
    let mut at = hierarchy.mount.clone();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let available = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        let control = at.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control).unwrap_or_default();
        for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
            let has = |text: &str| text.split_whitespace().any(|name| name == controller);
            if has(&available) && !has(&enabled) {
                write(&control, &format!("+{controller}"))?;
            }
        }
        at.push(part);
        match fs::create_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(file("make cgroup", &at, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Children first; a cgroup with processes in it is emptied by SIGKILL.
fn remove_tree(path: &Path, until: Instant) -> Result<(), Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file("list cgroup", path, error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), until)?;
        }
    }
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                if Instant::now() >= until {
                    return Err(Error::Busy(path.to_owned()));
                }
                kill_all(path);
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(file("remove cgroup", path, error)),
        }
    }
}

fn kill_all(path: &Path) {
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that this process' namespace does not show: signalling it would hit ourselves.
    for pid in processes
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|&pid: &i32| pid > 0)
    {
        // It may have ended since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    // Not created: a missing file means a missing controller, and should be an error.
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| file("write", path, error))
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_quality_of_service() {
        for (parent, tier, expected) in [
            ("", Tier::Guaranteed, "/kubepods/podu"),
            ("", Tier::Burstable, "/kubepods/burstable/podu"),
            ("/node-1", Tier::BestEffort, "/node-1/kubepods/besteffort/podu"),
            ("/node-1/", Tier::Guaranteed, "/node-1/kubepods/podu"),
        ] {
            assert_eq!(Cgroups::new(vec![], parent).path(tier, "u"), expected);
        }
    }

    #[test]
    fn limits_are_written_in_each_generation_s_own_way() {
        let limits = Limits {
            cpu_shares: 512,
            cpu_quota: Some(50_000),
            memory: Some(1 << 20),
        };
        let lines = |kind: &Kind, limits: &Limits| {
            settings(kind, limits)
                .iter()
                .map(|(_, name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        };
        let v1 = Kind::V1(vec![]);
        assert_eq!(
            lines(&v1, &limits),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576"
            ]
        );
        assert_eq!(
            lines(&v1, &Limits::default()),
            [
                "cpu.shares=2",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=-1"
            ]
        );
        assert_eq!(
            lines(&Kind::V2, &limits),
            ["cpu.weight=20", "cpu.max=50000 100000", "memory.max=1048576"]
        );
        assert_eq!(
            lines(&Kind::V2, &Limits::default()),
            ["cpu.weight=1", "cpu.max=max 100000", "memory.max=max"]
        );
    }

    /// Plain folders in place of cgroup file systems: enough for paths and values.
    #[test]
    fn a_pods_cgroup_is_made_limited_listed_and_removed() {
        let root = std::env::temp_dir().join(format!("keelson-cgroups-{}", std::process::id()));
        let hierarchy = |name: &str, controllers: &[&str]| Hierarchy {
            mount: root.join(name),
            kind: Kind::V1(controllers.iter().map(|&name| name.to_owned()).collect()),
        };
        let cgroups = Cgroups::new(
            vec![hierarchy("cpu", &["cpu"]), hierarchy("pids", &["pids"])],
            "/parent",
        );
        // Where the kernel would have made the files with the folder.
        let pod = root.join("cpu/parent/kubepods/burstable/podu-1");
        fs::create_dir_all(&pod).expect("folder");
        for name in ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"] {
            fs::write(pod.join(name), "").expect("file");
        }
        let limits = Limits {
            cpu_shares: 100,
            ..Limits::default()
        };
        let path = cgroups.ensure(Tier::Burstable, "u-1", &limits).expect("ensure");
        assert_eq!(path, "/parent/kubepods/burstable/podu-1");
        assert_eq!(fs::read_to_string(pod.join("cpu.shares")).expect("shares"), "100");
        assert!(!root.join("pids/parent").exists(), "nothing to limit there");
        assert_eq!(cgroups.pods(), ["u-1"]);

        for name in ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"] {
            fs::remove_file(pod.join(name)).expect("remove");
        }
        // The runtime's own, also where the agent made none.
        fs::create_dir_all(pod.join("container/inner")).expect("folder");
        let elsewhere = root.join("pids/parent/kubepods/burstable/podu-1");
        fs::create_dir_all(&elsewhere).expect("folder");
        cgroups.remove("u-1").expect("remove");
        assert!(!pod.exists() && !elsewhere.exists());
        cgroups.remove("u-1").expect("again is fine");
        fs::remove_dir_all(&root).expect("clean up");
    }
}
