//! Users, groups, capabilities, seccomp, sysctls.

use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use super::{Checker, leaves};

/// Kernel settings that touch nobody but the pod.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

impl Checker {
    pub(super) fn pod_security(&mut self, security: &PodSecurityContext, spec: &PodSpec, at: &str) {
        for (name, id) in [
            ("runAsUser", security.run_as_user),
            ("runAsGroup", security.run_as_group),
            ("fsGroup", security.fs_group),
        ] {
            self.id(id, &format!("{at}.{name}"));
        }
        for (index, group) in security.supplemental_groups.iter().flatten().enumerate() {
            self.id(Some(*group), &format!("{at}.supplementalGroups[{index}]"));
        }
        for (index, sysctl) in security.sysctls.iter().flatten().enumerate() {
            let path = format!("{at}.sysctls[{index}].name");
            let name = sysctl.name.replace('/', ".");
            let shared = match name.split('.').next() {
                Some("net") if spec.host_network == Some(true) => Some("hostNetwork"),
                Some("kernel") if spec.host_ipc == Some(true) => Some("hostIPC"),
                _ => None,
            };
            if name.is_empty() {
                self.required(path);
            } else if !SYSCTLS.contains(&name.as_str()) {
                self.fault(
                    path,
                    format!(
                        "Forbidden: \"{name}\" may touch others on the node; only safe sysctls may be set"
                    ),
                );
            } else if let Some(shared) = shared {
                self.fault(
                    path,
                    format!("Invalid value: \"{name}\": may not be set with {shared}"),
                );
            }
        }
        if let Some(profile) = &security.seccomp_profile {
            self.seccomp(profile, &format!("{at}.seccompProfile"));
        }
    }

    pub(super) fn container_security(&mut self, security: &SecurityContext, at: &str) {
        self.id(security.run_as_user, &format!("{at}.runAsUser"));
        self.id(security.run_as_group, &format!("{at}.runAsGroup"));
        let added = security.capabilities.as_ref().and_then(|all| all.add.as_ref());
        let administers = |name: &String| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN");
        if security.allow_privilege_escalation == Some(false) {
            for (set, what) in [
                (security.privileged == Some(true), "privileged to true"),
                (
                    added.into_iter().flatten().any(administers),
                    "capabilities.add to CAP_SYS_ADMIN",
                ),
            ] {
                if set {
                    self.fault(
                        at,
                        format!("Invalid value: cannot set allowPrivilegeEscalation to false and {what}"),
                    );
                }
            }
        }
        if let Some(profile) = &security.seccomp_profile {
            self.seccomp(profile, &format!("{at}.seccompProfile"));
        }
    }

    fn id(&mut self, id: Option<i64>, path: &str) {
        self.between(id, path, 0, i32::MAX.into());
    }

    fn seccomp(&mut self, profile: &SeccompProfile, at: &str) {
        let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
        self.one_of(Some(&profile.type_), &format!("{at}.type"), &kinds);
        let path = format!("{at}.localhostProfile");
        let file = profile.localhost_profile.as_deref().unwrap_or_default();
        if profile.type_ != "Localhost" {
            if !file.is_empty() {
                self.fault(
                    path,
                    "Invalid value: may only be set when seccomp type is \"Localhost\"",
                );
            }
        } else if file.is_empty() {
            self.fault(
                path,
                "Required value: must be set when seccomp type is \"Localhost\"",
            );
        } else if leaves(file) {
            self.fault(
                path,
                format!("Invalid value: \"{file}\": must be a relative path without '..'"),
            );
        }
    }
}
