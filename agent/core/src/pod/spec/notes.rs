//! Labels and annotations on what the runtime holds, in the words that others read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{self as api, Pod};

use super::termination_path;

/// Labels and annotations by which kubelet, log shippers and crictl know what is what.
pub mod label {
    /// Name of the pod.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Its namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Its UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of a container.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of what a container was made from.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: restart count.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: path of the last word's file.
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: where the last word comes from.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the preStop hook, as JSON.
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// Annotation: the ports, as JSON.
    pub const PORTS: &str = "io.kubernetes.container.ports";
    /// Annotation: the grace period that deletion asked for.
    pub const DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
    /// Annotation: the pod's grace period.
    pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Hash of what cannot change without a restart: image and name. The value is the one a stock kubelet computes, so that neither
/// restarts the other's containers when they take turns: 32-bit FNV-1a over the bytes of a JSON object, written out in decimal.
pub fn container_hash(container: &api::Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let fields = BTreeMap::from([("image", image), ("name", container.name.as_str())]);
    let json = serde_json::json!(fields).to_string();
    let decimal: Vec<String> = json.bytes().map(|byte| byte.to_string()).collect();
    let text = format!("([]uint8)[{}]", decimal.join(" "));
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:x}")
}

pub(super) fn annotations(container: &api::Container, attempt: u32, pod: &Pod) -> BTreeMap<String, String> {
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let own = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds);
    let deletion = pod.metadata.deletion_grace_period_seconds;
    let hook = container.lifecycle.as_ref().and_then(|all| all.pre_stop.as_ref());
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let notes = [
        (label::HASH, Some(container_hash(container))),
        (label::RESTART_COUNT, Some(attempt.to_string())),
        (
            label::TERMINATION_PATH,
            Some(termination_path(container).to_owned()),
        ),
        (label::TERMINATION_POLICY, Some(policy.to_owned())),
        (label::GRACE_PERIOD, Some(own.unwrap_or(30).to_string())),
        (
            label::DELETION_GRACE_PERIOD,
            deletion.map(|seconds| seconds.to_string()),
        ),
        (
            label::PRE_STOP,
            hook.and_then(|hook| serde_json::to_string(hook).ok()),
        ),
        (
            label::PORTS,
            ports.and_then(|ports| serde_json::to_string(ports).ok()),
        ),
    ];
    notes
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}
