//! Names of programs and maps, as they stand in the object and below a generation's pin directory.

/// Pod block, ingress: packets from pods.
pub const PROG_POD_INGRESS: &str = "pod_ingress";
/// Pod block, egress: packets to pods that came through the stack.
pub const PROG_POD_EGRESS: &str = "pod_egress";
/// Uplink, ingress.
pub const PROG_UPLINK_INGRESS: &str = "uplink_ingress";
/// Uplink, egress.
pub const PROG_UPLINK_EGRESS: &str = "uplink_egress";
/// `keelson1`, ingress: the host's own processes.
pub const PROG_HOST_INGRESS: &str = "host_ingress";
/// lo, egress: the node's own NodePorts and addresses.
pub const PROG_LO_EGRESS: &str = "lo_egress";
/// The tunnel to other nodes, ingress.
pub const PROG_TUNNEL_INGRESS: &str = "tunnel_ingress";
/// The tunnel, egress.
pub const PROG_TUNNEL_EGRESS: &str = "tunnel_egress";
/// Every program.
pub const PROGRAMS: [&str; 8] = [
    PROG_POD_INGRESS,
    PROG_POD_EGRESS,
    PROG_UPLINK_INGRESS,
    PROG_UPLINK_EGRESS,
    PROG_HOST_INGRESS,
    PROG_LO_EGRESS,
    PROG_TUNNEL_INGRESS,
    PROG_TUNNEL_EGRESS,
];

/// Hash Addr → Endpoint.
pub const MAP_ENDPOINT: &str = "endpoint";
/// Hash HostPortKey → HostPort.
pub const MAP_HOSTPORT: &str = "hostport";
/// Array of one NodeConfig.
pub const MAP_NODE: &str = "node";
/// LPM PrefixKey → Prefix.
pub const MAP_PREFIX: &str = "prefix";
/// Hash FrontendKey → Frontend.
pub const MAP_FRONTEND: &str = "frontend";
/// Hash BackendKey → BackendBlock.
pub const MAP_BACKEND: &str = "backend";
/// Hash MemberKey → Member.
pub const MAP_MEMBER: &str = "member";
/// Hash MaglevKey → MaglevBlock.
pub const MAP_MAGLEV: &str = "maglev";
/// LPM SourceRangeKey → u32.
pub const MAP_SOURCE_RANGE: &str = "source_range";
/// LRU hash AffinityKey → Affinity. Losing the least recent client costs it another endpoint, no connection.
pub const MAP_AFFINITY: &str = "affinity";
/// Hash without preallocation FlowKey → Flow.
pub const MAP_FLOW: &str = "flow";
/// Array of FLOW_RING RingSlots, slot 0 unused.
pub const MAP_FLOW_RING: &str = "flow_ring";
/// Array of two u64: the ring's cursor, and the number of slots in use (0 = [`crate::FLOW_RING`]); the loader
/// writes the second when it gives the ring another capacity.
pub const MAP_FLOW_CURSOR: &str = "flow_cursor";
/// LRU hash FragmentKey → FragmentPorts.
pub const MAP_FRAGMENT: &str = "fragment";
/// Per-CPU array of u64, indexed by `COUNTER_*` and [`crate::DropReason`].
pub const MAP_COUNTER: &str = "counter";
/// Ring buffer of DropEvent.
pub const MAP_DROP: &str = "drop";
/// Per-CPU array of one Trace, written by dry runs.
pub const MAP_TRACE: &str = "trace";
/// Every map.
pub const MAPS: [&str; 17] = [
    MAP_ENDPOINT,
    MAP_HOSTPORT,
    MAP_NODE,
    MAP_PREFIX,
    MAP_FRONTEND,
    MAP_BACKEND,
    MAP_MEMBER,
    MAP_MAGLEV,
    MAP_SOURCE_RANGE,
    MAP_AFFINITY,
    MAP_FLOW,
    MAP_FLOW_RING,
    MAP_FLOW_CURSOR,
    MAP_FRAGMENT,
    MAP_COUNTER,
    MAP_DROP,
    MAP_TRACE,
];
