//! What carrying Services needs, and what stands in its way.

use keelson_proto::keelson::Finding;

use super::{Facts, ok, warning};

/// Whether sockets can be connected to endpoints directly.
pub(super) fn hooks(facts: &Facts) -> Finding {
    if facts.cgroup_v2 {
        ok(
            "socket hooks",
            "cgroup v2 is mounted: sockets of processes can be connected to endpoints directly",
        )
    } else {
        warning(
            "socket hooks",
            "cgroup v2 is not mounted: every packet is translated instead, which costs a little more",
            "mount cgroup2 at /sys/fs/cgroup, or at /sys/fs/cgroup/unified beside v1",
        )
    }
}

/// Beside another plugin and another proxy.
pub(super) fn beside(facts: &Facts) -> Vec<Finding> {
    let conntrack = if facts.conntrack {
        ok(
            "connection tracking",
            "the kernel's table can be read: connections of another proxy can be taken over",
        )
    } else {
        warning(
            "connection tracking",
            "the kernel has no table of connections (nf_conntrack): there is nothing to take over from another proxy",
            "none is needed, unless kube-proxy ran here; then load nf_conntrack and nf_conntrack_netlink",
        )
    };
    let other = if facts.kube_proxy {
        warning(
            "kube-proxy",
            "it runs on this node",
            "two proxies answer the same Services: stop it once the agent is ready, and remove its rules with `kube-proxy --cleanup`",
        )
    } else {
        ok("kube-proxy", "does not run on this node")
    };
    let kinds: Vec<&str> = facts
        .kinds
        .iter()
        .map(String::as_str)
        .filter(|kind| ["macvlan", "ipvlan"].contains(kind))
        .collect();
    let bypassing = if kinds.is_empty() {
        ok("macvlan and ipvlan pods", "none configured")
    } else {
        warning(
            "macvlan and ipvlan pods",
            &format!("network configurations of type {} are there", kinds.join(", ")),
            "packets of such pods pass the host by: only the socket hooks reach them (TCP, and UDP sockets of processes)",
        )
    };
    vec![conntrack, other, bypassing]
}
