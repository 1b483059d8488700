//! What this machine can do for a node: looked at, judged, and for what is missing said what helps. Works with no agent running.

mod facts;
mod services;

use std::{path::PathBuf, sync::Arc};

use keelson_proto::keelson::{Finding, finding::Level};

pub use self::facts::{Facts, RuntimeFacts};
use crate::{config::Config, doors::cri::Runtime, health::Health};

/// Name of the plugin's binary.
const PLUGIN: &str = "keelson-cni";

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// containerd's socket.
    pub containerd: PathBuf,
    /// Network configurations.
    pub cni_conf_dir: PathBuf,
    /// Network plugins.
    pub cni_bin_dir: PathBuf,
    /// The BPF file system.
    pub bpf: PathBuf,
}

impl Places {
    /// As the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            containerd: config.containerd.clone(),
            cni_conf_dir: config.cni_conf_dir.clone(),
            cni_bin_dir: config.cni_bin_dir.clone(),
            bpf: config.bpf.clone(),
        }
    }
}

/// Look at the machine from where this process runs.
pub async fn node(places: &Places) -> Vec<Finding> {
    judge(&facts::gather(places).await, places)
}

/// The same, for what `keelson proxy` needs.
pub async fn proxy(places: &Places) -> Vec<Finding> {
    judge_proxy(&facts::gather(places).await, places)
}

/// What the agent's parts say of themselves.
pub fn agent(health: &Arc<Health>, runtime: &str) -> Vec<Finding> {
    let states = health.watch().borrow().clone();
    let mut findings: Vec<Finding> = states
        .into_iter()
        .map(|(name, state)| match state {
            Ok(()) => ok(&format!("agent: {name}"), "works"),
            Err(why) => failed(
                &format!("agent: {name}"),
                &why,
                "see the agent's log and `keelson get events`",
            ),
        })
        .collect();
    if !runtime.is_empty() {
        findings.push(ok("agent: runtime seen", runtime));
    }
    findings
}

/// The runtime's name and version as the agent gets them; empty if it gets none.
pub async fn runtime_name(runtime: &dyn Runtime) -> String {
    match runtime.version().await {
        Ok(version) => format!("{} {}", version.name, version.version),
        // The health of the runtime says why.
        Err(_) => String::new(),
    }
}

/// Whether something essential is missing.
pub fn fails(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level() == Level::Failed)
}

fn finding(subject: &str, level: Level, detail: &str, help: &str) -> Finding {
    Finding {
        subject: subject.to_owned(),
        level: level.into(),
        detail: detail.to_owned(),
        help: help.to_owned(),
    }
}

fn ok(subject: &str, detail: &str) -> Finding {
    finding(subject, Level::Ok, detail, "")
}

fn warning(subject: &str, detail: &str, help: &str) -> Finding {
    finding(subject, Level::Warning, detail, help)
}

fn failed(subject: &str, detail: &str, help: &str) -> Finding {
    finding(subject, Level::Failed, detail, help)
}

/// Facts → findings.
pub fn judge(facts: &Facts, places: &Places) -> Vec<Finding> {
    let mut findings = kernel(facts);
    findings.extend(capabilities(facts));
    findings.push(bpffs(facts, places));
    findings.push(cgroups(facts));
    findings.push(sysctls(facts));
    if facts.cgroup_v1 || facts.cgroup_v2 {
        findings.push(services::hooks(facts));
    }
    findings.extend(runtime(facts, places));
    findings.extend(network(facts, places));
    findings
}

/// Facts → findings, without what only pods need.
pub fn judge_proxy(facts: &Facts, places: &Places) -> Vec<Finding> {
    let mut findings = kernel(facts);
    findings.push(essential(facts));
    findings.push(bpffs(facts, places));
    findings.push(sysctls(facts));
    findings.push(services::hooks(facts));
    findings.extend(services::beside(facts));
    findings
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let release = facts.kernel.as_str();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut findings = vec![if version >= (6, 6) {
        ok("kernel", &format!("Linux {release}: tcx links, redirect_peer"))
    } else {
        failed(
            "kernel",
            &format!("Linux {release}"),
            "tcx links came with Linux 6.6; boot a newer kernel (Debian: linux-image-amd64 from backports)",
        )
    }];
    findings.push(if facts.btf {
        ok("kernel BTF", "/sys/kernel/btf/vmlinux")
    } else {
        warning(
            "kernel BTF",
            "/sys/kernel/btf/vmlinux is missing",
            "programs load without it, but verifier messages lose their names; a kernel with CONFIG_DEBUG_INFO_BTF has it",
        )
    });
    findings
}

/// Capabilities without which nothing works, and their numbers.
const ESSENTIAL: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];
const CAP_SYS_RESOURCE: u32 = 24;

fn has(facts: &Facts, capability: u32) -> bool {
    facts.capabilities & 1 << capability != 0
}

fn capabilities(facts: &Facts) -> Vec<Finding> {
    vec![essential(facts), oom_scores(facts, has(facts, CAP_SYS_RESOURCE))]
}

fn essential(facts: &Facts) -> Finding {
    let missing: Vec<&str> = ESSENTIAL
        .iter()
        .filter(|(_, number)| !has(facts, *number))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        ok("capabilities", "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF")
    } else {
        failed(
            "capabilities",
            &format!("{} missing", missing.join(", ")),
            "run as root; inside a container, add these capabilities",
        )
    }
}

/// Without CAP_SYS_RESOURCE nobody may lower an OOM score, so the runtime must be told not to try.
fn oom_scores(facts: &Facts, may_lower: bool) -> Finding {
    const SUBJECT: &str = "OOM scores";
    if may_lower {
        return ok(SUBJECT, "CAP_SYS_RESOURCE: may be lowered");
    }
    match facts
        .runtime
        .as_ref()
        .ok()
        .and_then(|runtime| runtime.restrict_oom)
    {
        Some(true) => ok(
            SUBJECT,
            "CAP_SYS_RESOURCE is missing, and the runtime has restrict_oom_score_adj = true",
        ),
        Some(false) => failed(
            SUBJECT,
            "CAP_SYS_RESOURCE is missing and the runtime would try to lower scores: no pod would start",
            "set restrict_oom_score_adj = true in the CRI plugin's section of containerd's configuration",
        ),
        None => warning(
            SUBJECT,
            "CAP_SYS_RESOURCE is missing",
            "the runtime needs restrict_oom_score_adj = true in the CRI plugin's section of its configuration",
        ),
    }
}

fn bpffs(facts: &Facts, places: &Places) -> Finding {
    let path = places.bpf.display();
    if facts.bpffs {
        ok("BPF file system", &format!("mounted at {path}"))
    } else {
        warning(
            "BPF file system",
            &format!("not mounted at {path}"),
            "the agent or the plugin mounts it, whoever comes first",
        )
    }
}

fn cgroups(facts: &Facts) -> Finding {
    const SUBJECT: &str = "cgroups";
    let wanted = ["cpu", "memory", "pids"];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|name| !facts.controllers.iter().any(|have| have == name))
        .collect();
    let kind = match (facts.cgroup_v1, facts.cgroup_v2) {
        (true, true) => "v1 and v2 side by side (hybrid)",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => {
            return failed(
                SUBJECT,
                "no cgroup file system is mounted",
                "mount cgroup2 at /sys/fs/cgroup",
            );
        }
    };
    if missing.is_empty() {
        return ok(SUBJECT, &format!("{kind}; cpu, memory, pids"));
    }
    warning(
        SUBJECT,
        &format!("{kind}; controllers missing: {}", missing.join(", ")),
        "limits of these kinds have no effect; enable them on the kernel's command line (cgroup_enable=memory) or in the parent cgroup",
    )
}

fn sysctls(facts: &Facts) -> Finding {
    if !facts.sysctls_writable {
        return failed(
            "forwarding",
            "/proc/sys/net cannot be written",
            "mount /proc/sys writable; the node sets `forwarding` on its own devices",
        );
    }
    let all = if facts.forwarding { "on" } else { "off" };
    ok(
        "forwarding",
        &format!("globally {all}; set per device by the node, the global switch stays as it is"),
    )
}

fn runtime(facts: &Facts, places: &Places) -> Vec<Finding> {
    let socket = places.containerd.display();
    let runtime = match &facts.runtime {
        Ok(runtime) => runtime,
        Err(why) => {
            return vec![failed(
                "container runtime",
                &format!("{socket}: {why}"),
                "start containerd with its CRI plugin (disabled_plugins must not name \"cri\"), or name its socket with --containerd",
            )];
        }
    };
    let mut findings = vec![ok(
        "container runtime",
        &format!("{} at {socket}", runtime.version),
    )];
    for (condition, trouble) in &runtime.conditions {
        let subject = format!("runtime: {condition}");
        match trouble {
            None => findings.push(ok(&subject, "true")),
            // Before the agent has run there is no network configuration: that is as it should be.
            Some(why) if condition == "NetworkReady" => findings.push(warning(
                &subject,
                why,
                "the agent writes the network's configuration when it starts",
            )),
            Some(why) => findings.push(failed(&subject, why, "see the runtime's log")),
        }
    }
    findings
}

fn network(facts: &Facts, places: &Places) -> Vec<Finding> {
    let bin = places.cni_bin_dir.display();
    let conf = places.cni_conf_dir.display();
    let plugin = if facts.plugin {
        ok("network plugin", &format!("{bin}/{PLUGIN}"))
    } else {
        failed(
            "network plugin",
            &format!("{bin}/{PLUGIN} is missing or not executable"),
            "install the binary there, or name the right folder in the configuration (cniBinDir) and here (--cni-bin-dir)",
        )
    };
    let first = match facts.first_network.as_deref() {
        None => warning(
            "network configuration",
            &format!("none in {conf}"),
            "the agent writes 10-keelson.conflist when it starts",
        ),
        Some(name) if name.contains("keelson") => ok("network configuration", &format!("{conf}/{name}")),
        Some(name) => warning(
            "network configuration",
            &format!("{conf}/{name} comes first"),
            "the runtime takes the first by name: move it away if pods are to use Keelson's",
        ),
    };
    vec![plugin, first]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places::of(&Config::default())
    }

    fn good() -> Facts {
        Facts {
            kernel: "6.18.5-amd64".to_owned(),
            btf: true,
            capabilities: u64::MAX,
            bpffs: true,
            cgroup_v1: false,
            cgroup_v2: true,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
            sysctls_writable: true,
            forwarding: false,
            runtime: Ok(RuntimeFacts {
                version: "containerd 2.3.0".to_owned(),
                conditions: vec![
                    ("RuntimeReady".to_owned(), None),
                    ("NetworkReady".to_owned(), None),
                ],
                restrict_oom: Some(false),
            }),
            plugin: true,
            first_network: Some("10-keelson.conflist".to_owned()),
            conntrack: true,
            kube_proxy: false,
            kinds: Vec::new(),
        }
    }

    #[test]
    fn what_the_proxy_needs_is_judged_without_pods_and_runtime() {
        let mut facts = good();
        facts.runtime = Err("none".to_owned());
        facts.plugin = false;
        assert!(
            judge_proxy(&facts, &places())
                .iter()
                .all(|finding| finding.level() == Level::Ok)
        );
        facts.kube_proxy = true;
        facts.conntrack = false;
        facts.kinds = vec!["macvlan".to_owned()];
        let found = judge_proxy(&facts, &places());
        for subject in ["kube-proxy", "macvlan and ipvlan pods", "connection tracking"] {
            let finding = found.iter().find(|finding| finding.subject == subject);
            let finding = finding.expect("judged");
            assert_eq!(finding.level(), Level::Warning, "{finding:?}");
            assert!(!finding.help.is_empty(), "{finding:?}");
        }
        assert!(!fails(&found));
    }

    #[test]
    fn a_good_machine_needs_nothing() {
        for finding in judge(&good(), &places()) {
            assert_eq!(finding.level(), Level::Ok, "{finding:?}");
            assert!(finding.help.is_empty());
        }
    }

    /// A change of a good machine, the subject it shows under, and how bad it is.
    type Case = (fn(&mut Facts), &'static str, Level);

    #[test]
    fn what_is_missing_is_told_with_what_helps() {
        let cases: [Case; 14] = [
            (|f| f.kernel = "6.1.0-18".to_owned(), "kernel", Level::Failed),
            (|f| f.kernel = "odd".to_owned(), "kernel", Level::Failed),
            (|f| f.btf = false, "kernel BTF", Level::Warning),
            (|f| f.capabilities &= !(1 << 12), "capabilities", Level::Failed),
            (|f| f.capabilities &= !(1 << 24), "OOM scores", Level::Failed),
            (|f| f.bpffs = false, "BPF file system", Level::Warning),
            (|f| f.cgroup_v2 = false, "cgroups", Level::Failed),
            (|f| f.controllers.truncate(1), "cgroups", Level::Warning),
            (|f| f.sysctls_writable = false, "forwarding", Level::Failed),
            (
                |f| f.runtime = Err("refused".to_owned()),
                "container runtime",
                Level::Failed,
            ),
            (
                |f| f.runtime.as_mut().expect("there").conditions[0].1 = Some("bad".to_owned()),
                "runtime: RuntimeReady",
                Level::Failed,
            ),
            (
                |f| f.runtime.as_mut().expect("there").conditions[1].1 = Some("none".to_owned()),
                "runtime: NetworkReady",
                Level::Warning,
            ),
            (|f| f.plugin = false, "network plugin", Level::Failed),
            (
                |f| f.first_network = Some("05-other.conflist".to_owned()),
                "network configuration",
                Level::Warning,
            ),
        ];
        for (spoil, subject, level) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let findings = judge(&facts, &places());
            let bad: Vec<&Finding> = findings
                .iter()
                .filter(|finding| finding.level() != Level::Ok)
                .collect();
            assert_eq!(bad.len(), 1, "{subject}: {bad:?}");
            assert_eq!(
                (bad[0].subject.as_str(), bad[0].level()),
                (subject, level),
                "{bad:?}"
            );
            assert!(!bad[0].help.is_empty(), "{subject}");
            assert_eq!(fails(&findings), level == Level::Failed);
        }
    }

    #[test]
    fn a_runtime_that_leaves_oom_scores_alone_needs_no_capability() {
        let mut facts = good();
        facts.capabilities &= !(1 << CAP_SYS_RESOURCE);
        facts.runtime.as_mut().expect("there").restrict_oom = Some(true);
        assert!(!fails(&judge(&facts, &places())));
    }
}
