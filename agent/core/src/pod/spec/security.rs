//! What a container may do, and as whom.

use k8s_openapi::api::core::v1::{self as api, PodSpec};

/// What a container may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User; `None` = the image's.
    pub run_as_user: Option<i64>,
    /// User by the name that the image gives; empty = none.
    pub run_as_username: String,
    /// Group.
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    pub run_as_non_root: bool,
    /// Everything.
    pub privileged: bool,
    /// Root file system read only.
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// Capabilities added.
    pub add_capabilities: Vec<String>,
    /// And dropped.
    pub drop_capabilities: Vec<String>,
    /// Further groups, fsGroup among them.
    pub supplemental_groups: Vec<i64>,
    /// Seccomp: `RuntimeDefault`, `Unconfined` or `Localhost/<file>`.
    pub seccomp: String,
}

impl Security {
    /// Whether the image's user must be known before the container is made.
    pub fn needs_image(&self) -> bool {
        self.run_as_non_root || (self.run_as_group.is_some() && self.run_as_user.is_none())
    }

    /// Run as the image's user, where nothing else is said: the runtime refuses a group without a user.
    pub fn take_image_user(&mut self, image_uid: Option<i64>, image_user: &str) {
        if self.run_as_user.is_some() {
            return;
        }
        match (image_uid, image_user) {
            (None, "") => self.run_as_user = Some(0),
            (None, name) => self.run_as_username = name.to_owned(),
            (uid, _) => self.run_as_user = uid,
        }
    }
}

/// Why `runAsNonRoot` forbids the image's user; `None` = it may run.
pub fn non_root_problem(security: &Security, image_uid: Option<i64>, image_user: &str) -> Option<String> {
    if !security.run_as_non_root {
        return None;
    }
    match (security.run_as_user, image_uid) {
        (Some(0), _) => Some("container's runAsUser breaks non-root policy".into()),
        (Some(_), _) => None,
        (None, Some(0)) => Some("container has runAsNonRoot and image will run as root".into()),
        (None, Some(_)) => None,
        (None, None) if image_user.is_empty() => {
            Some("container has runAsNonRoot and image will run as root".into())
        }
        (None, None) => Some(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root"
        )),
    }
}

/// The container's own settings over the pod's.
pub(super) fn of(spec: &PodSpec, container: &api::Container) -> Security {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    let mut groups = pod
        .and_then(|pod| pod.supplemental_groups.clone())
        .unwrap_or_default();
    groups.extend(pod.and_then(|pod| pod.fs_group));
    let seccomp = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or(pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    Security {
        run_as_user: own
            .and_then(|own| own.run_as_user)
            .or(pod.and_then(|pod| pod.run_as_user)),
        run_as_username: String::new(),
        run_as_group: own
            .and_then(|own| own.run_as_group)
            .or(pod.and_then(|pod| pod.run_as_group)),
        run_as_non_root: own
            .and_then(|own| own.run_as_non_root)
            .or(pod.and_then(|pod| pod.run_as_non_root))
            .unwrap_or(false),
        privileged: own.and_then(|own| own.privileged).unwrap_or(false),
        read_only_root: own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        add_capabilities: capabilities.and_then(|all| all.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.and_then(|all| all.drop.clone()).unwrap_or_default(),
        supplemental_groups: groups,
        seccomp: match seccomp {
            None => "Unconfined".to_owned(),
            Some(profile) if profile.type_ == "Localhost" => {
                format!(
                    "Localhost/{}",
                    profile.localhost_profile.as_deref().unwrap_or_default()
                )
            }
            Some(profile) => profile.type_.clone(),
        },
    }
}
