//! What there is, without judgement.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use keelson_proto::cri::{StatusRequest, VersionRequest, runtime_service_client::RuntimeServiceClient};
use serde_json::Value;

use super::{PLUGIN, Places};
use crate::doors::cri::channel;

/// A runtime that does not answer within this time is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As `uname -r` says.
    pub kernel: String,
    /// Whether the kernel tells its types.
    pub btf: bool,
    /// This process's effective capabilities.
    pub capabilities: u64,
    /// Whether a BPF file system is mounted where it should be.
    pub bpffs: bool,
    /// Whether any controller is in a v1 hierarchy.
    pub cgroup_v1: bool,
    /// Whether the v2 hierarchy is mounted.
    pub cgroup_v2: bool,
    /// Controllers of all hierarchies.
    pub controllers: Vec<String>,
    /// Whether the network's settings can be written.
    pub sysctls_writable: bool,
    /// The global switch.
    pub forwarding: bool,
    /// The runtime, or why it cannot be asked.
    pub runtime: Result<RuntimeFacts, String>,
    /// Whether the plugin can be executed.
    pub plugin: bool,
    /// The network configuration that the runtime takes.
    pub first_network: Option<String>,
    /// Whether the kernel tracks connections.
    pub conntrack: bool,
    /// Whether kube-proxy runs in this network namespace.
    pub kube_proxy: bool,
    /// Types of plugins that network configurations name.
    pub kinds: Vec<String>,
}

/// What the runtime says.
#[derive(Clone, Debug, Default)]
pub struct RuntimeFacts {
    /// Name and version.
    pub version: String,
    /// Conditions, and what is wrong with each.
    pub conditions: Vec<(String, Option<String>)>,
    /// Whether it leaves OOM scores alone; `None` = it does not say.
    pub restrict_oom: Option<bool>,
}

/// Look.
pub(super) async fn gather(places: &Places) -> Facts {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (cgroup_v1, cgroup_v2, controllers) = cgroups(&mounts);
    let runtime = match tokio::time::timeout(PATIENCE, runtime(&places.containerd)).await {
        Ok(found) => found,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    Facts {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        capabilities: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| effective(&status))
            .unwrap_or(0),
        bpffs: mounted(&mounts).any(|(point, kind, _)| kind == "bpf" && Path::new(point) == places.bpf),
        cgroup_v1,
        cgroup_v2,
        controllers,
        sysctls_writable: writable(Path::new("/proc/sys/net/ipv4/conf/lo/forwarding")),
        forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1"),
        runtime,
        plugin: fs::metadata(places.cni_bin_dir.join(PLUGIN))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0),
        first_network: first_network(&places.cni_conf_dir),
        conntrack: Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists(),
        kube_proxy: runs_here("kube-proxy"),
        kinds: kinds(&places.cni_conf_dir),
    }
}

/// Opening for writing changes nothing, and fails on a read-only mount.
fn writable(path: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok()
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Mount point, type and options of the file system of each mount.
fn mounted(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1).unwrap_or_default());
        Some((mount.split(' ').nth(4)?, kind, options))
    })
}

/// Whether there is v1, whether there is v2, and all controllers.
fn cgroups(mountinfo: &str) -> (bool, bool, Vec<String>) {
    let (mut v1, mut v2, mut controllers) = (false, false, Vec::new());
    for (point, kind, options) in mounted(mountinfo) {
        match kind {
            "cgroup" => {
                let found = options
                    .split(',')
                    .filter(|name| ["cpu", "cpuset", "memory", "pids", "blkio", "cpuacct"].contains(name));
                let before = controllers.len();
                controllers.extend(found.map(str::to_owned));
                v1 |= controllers.len() > before;
            }
            "cgroup2" => {
                v2 = true;
                let file = Path::new(point).join("cgroup.controllers");
                let text = fs::read_to_string(file).unwrap_or_default();
                controllers.extend(text.split_whitespace().map(str::to_owned));
            }
            _ => {}
        }
    }
    controllers.sort();
    controllers.dedup();
    (v1, v2, controllers)
}

/// Whether a process of this name runs in this process's network namespace.
fn runs_here(name: &str) -> bool {
    let here = fs::read_link("/proc/self/ns/net").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|entry| entry.path())
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .any(|path| fs::read_link(path.join("ns/net")).ok() == here)
}

/// Types of plugins in all network configurations.
fn kinds(folder: &Path) -> Vec<String> {
    let values = configurations(folder)
        .filter_map(|name| serde_json::from_slice::<Value>(&fs::read(folder.join(name)).ok()?).ok());
    let mut kinds: Vec<String> = values
        .flat_map(|value| {
            let list = value.get("plugins").and_then(Value::as_array).cloned();
            list.unwrap_or_else(|| vec![value])
        })
        .filter_map(|plugin| Some(plugin.get("type")?.as_str()?.to_owned()))
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn first_network(folder: &Path) -> Option<String> {
    configurations(folder).min()
}

/// Files that the runtime would read.
fn configurations(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            [".conf", ".conflist", ".json"]
                .iter()
                .any(|end| name.ends_with(end))
        })
}

async fn runtime(socket: &Path) -> Result<RuntimeFacts, String> {
    let channel = channel::connect(socket)
        .await
        .map_err(|error| innermost(&error))?;
    let mut client = RuntimeServiceClient::new(channel);
    let request = VersionRequest {
        version: "v1".to_owned(),
    };
    let version = client
        .version(request)
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let status = client
        .status(StatusRequest { verbose: true })
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    Ok(RuntimeFacts {
        version: format!("{} {}", version.runtime_name, version.runtime_version),
        conditions: conditions
            .into_iter()
            .map(|one| {
                let why = format!("{}: {}", one.reason, one.message);
                (one.r#type, (!one.status).then_some(why))
            })
            .collect(),
        restrict_oom: status.info.get("config").and_then(|config| restricts(config)),
    })
}

fn restricts(config: &str) -> Option<bool> {
    let config: Value = serde_json::from_str(config).ok()?;
    config.get("restrictOOMScoreAdj")?.as_bool()
}

/// The cause of causes: the outer words of a transport error say nothing.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_tell_the_kind_of_machine() {
        let hybrid = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            34 30 0:30 / /nowhere/unified rw - cgroup2 cgroup2 rw\n\
            35 1 0:31 / /sys/fs/bpf rw - bpf bpf rw\n";
        let (v1, v2, controllers) = cgroups(hybrid);
        assert_eq!((v1, v2), (true, true));
        assert_eq!(controllers, ["cpu", "cpuacct", "memory"]);
        let named = "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(cgroups(named), (false, false, Vec::new()));
        assert!(mounted(hybrid).any(|(point, kind, _)| (point, kind) == ("/sys/fs/bpf", "bpf")));
    }

    #[test]
    fn types_of_plugins_are_found_in_lists_and_in_single_configurations() {
        let folder = std::env::temp_dir().join(format!("keelson-kinds-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        let list = r#"{"name":"a","plugins":[{"type":"macvlan"},{"type":"portmap"}]}"#;
        fs::write(folder.join("10-a.conflist"), list).expect("written");
        fs::write(folder.join("20-b.conf"), r#"{"name":"b","type":"bridge"}"#).expect("written");
        fs::write(folder.join("30-c.conf"), "no JSON").expect("written");
        fs::write(folder.join("notes.txt"), r#"{"type":"ipvlan"}"#).expect("written");
        assert_eq!(kinds(&folder), ["bridge", "macvlan", "portmap"]);
        assert_eq!(first_network(&folder).as_deref(), Some("10-a.conflist"));
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t00000000a80425fb\nCapBnd:\t0\n"),
            Some(0xa804_25fb)
        );
        assert_eq!(effective("nothing"), None);
    }

    #[test]
    fn the_runtimes_configuration_tells_about_oom_scores() {
        assert_eq!(restricts(r#"{"a":1,"restrictOOMScoreAdj":true}"#), Some(true));
        assert_eq!(restricts(r#"{"a":1}"#), None);
        assert_eq!(restricts("no json"), None);
    }
}
