//! What this version of the agent implements of a pod. A field outside this list rejects the pod by name: it never runs without it.
//!
//! Paths are those of the JSON form; `[]` stands for every element, `*` for every key of a map, and a path that ends in `**` takes
//! all below it.

/// Fields of a pod's spec.
pub const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "containers[].args[]",
    "containers[].command[]",
    "containers[].env[].name",
    "containers[].env[].value",
    "containers[].env[].valueFrom.configMapKeyRef.**",
    "containers[].env[].valueFrom.fieldRef.**",
    "containers[].env[].valueFrom.resourceFieldRef.**",
    "containers[].env[].valueFrom.secretKeyRef.**",
    "containers[].envFrom[].**",
    "containers[].image",
    "containers[].imagePullPolicy",
    "containers[].lifecycle.postStart.exec.**",
    "containers[].lifecycle.postStart.httpGet.**",
    "containers[].lifecycle.postStart.sleep.**",
    "containers[].lifecycle.preStop.exec.**",
    "containers[].lifecycle.preStop.httpGet.**",
    "containers[].lifecycle.preStop.sleep.**",
    "containers[].livenessProbe.**",
    "containers[].name",
    "containers[].ports[].containerPort",
    "containers[].ports[].name",
    "containers[].ports[].protocol",
    "containers[].readinessProbe.**",
    "containers[].resources.limits.cpu",
    "containers[].resources.limits.memory",
    "containers[].resources.requests.cpu",
    "containers[].resources.requests.memory",
    "containers[].resources.requests.ephemeral-storage",
    "containers[].securityContext.allowPrivilegeEscalation",
    "containers[].securityContext.capabilities.**",
    "containers[].securityContext.privileged",
    "containers[].securityContext.readOnlyRootFilesystem",
    "containers[].securityContext.runAsGroup",
    "containers[].securityContext.runAsNonRoot",
    "containers[].securityContext.runAsUser",
    "containers[].securityContext.seccompProfile.**",
    "containers[].startupProbe.**",
    "containers[].stdin",
    "containers[].stdinOnce",
    "containers[].terminationMessagePath",
    "containers[].terminationMessagePolicy",
    "containers[].tty",
    "containers[].volumeMounts[].mountPath",
    "containers[].volumeMounts[].mountPropagation",
    "containers[].volumeMounts[].name",
    "containers[].volumeMounts[].readOnly",
    "containers[].volumeMounts[].subPath",
    "containers[].volumeMounts[].subPathExpr",
    "containers[].workingDir",
    "dnsConfig.**",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases[].**",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "nodeName",
    "os.name",
    "preemptionPolicy",
    "priority",
    "readinessGates[].**",
    "restartPolicy",
    "schedulerName",
    "securityContext.fsGroup",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.**",
    "securityContext.supplementalGroups[]",
    "securityContext.sysctls[].**",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations[].**",
    "volumes[].configMap.**",
    "volumes[].emptyDir.medium",
    "volumes[].emptyDir.sizeLimit",
    "volumes[].hostPath.**",
    "volumes[].name",
    "volumes[].secret.**",
];

/// Fields of init containers that regular ones have and they do not.
const NOT_FOR_INIT: [&str; 4] = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];

/// Whether a path of the spec is implemented.
pub fn is_supported(path: &str) -> bool {
    let as_regular = path
        .strip_prefix("initContainers[].")
        .map(|rest| (rest, format!("containers[].{rest}")));
    match as_regular {
        Some((rest, _)) if NOT_FOR_INIT.iter().any(|field| rest.starts_with(field)) => false,
        Some((_, regular)) => listed(&regular),
        None => listed(path),
    }
}

fn listed(path: &str) -> bool {
    SPEC.iter().any(|known| match known.strip_suffix(".**") {
        Some(prefix) => {
            path == prefix
                || path
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
        }
        None => path == *known,
    })
}
