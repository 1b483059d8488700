//! Sizes and timeouts.

/// Version of the layouts that the plugin depends on: `endpoint`, `hostport`, `node`, block numbers, pin paths.
pub const ATTACH_CONTRACT: u32 = 2;
/// Version of all layouts together: a generation with another version is not reused.
pub const LAYOUT_VERSION: u32 = 3;

/// tc block that every pod link's ingress (packets from the pod) is bound to.
pub const BLOCK_INGRESS: u32 = 0x6b65_0001;
/// tc block that every pod link's egress (packets to the pod through the stack) is bound to.
pub const BLOCK_EGRESS: u32 = 0x6b65_0002;

/// Default capacities; the loader may override them.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Host ports.
pub const MAX_HOST_PORTS: u32 = 4096;
/// Flow map entries: both legs count. The map grows with use.
pub const MAX_FLOWS: u32 = 65_536;
/// Ring slots: one per flow.
pub const FLOW_RING: u32 = MAX_FLOWS / 2;
/// Ring slots examined per new flow, at least: what keeps the table clean.
pub const FLOW_RING_STEP: u32 = 4;
/// Ring slots examined per new flow, at most: so many are looked at while none is free.
pub const FLOW_RING_SCAN: u32 = 48;
/// Ports tried per translated source, at most.
pub const SNAT_TRIES: u32 = 256;
/// Ports tried before one whose flow has ended is taken.
pub const SNAT_TRIES_CLOSED: u32 = 16;
/// Seconds after which a ring slot or a stub without an entry has been left behind: an entry follows within microseconds.
pub const FLOW_ABANDONED: u32 = 2;
/// Frontends: 50,000 Services with one port each, and the entries that refuse their undefined ports.
pub const MAX_FRONTENDS: u32 = 131_072;
/// Blocks of backend slots.
pub const MAX_BACKENDS: u32 = 65_536;
/// Serving endpoints of Services that need them one by one.
pub const MAX_MEMBERS: u32 = 65_536;
/// Blocks of Maglev tables.
pub const MAX_MAGLEV: u32 = 16_384;
/// Clients with session affinity; the least recent make room.
pub const MAX_AFFINITY: u32 = 16_384;
/// Source ranges of Services.
pub const MAX_SOURCE_RANGES: u32 = 65_536;
/// Entries of a Maglev table: prime, and the same on every node.
pub const MAGLEV_SIZE: u32 = 16_381;
/// Prefixes.
pub const MAX_PREFIXES: u32 = 4096;
/// Fragmented datagrams in flight.
pub const MAX_FRAGMENTS: u32 = 8192;

/// Seconds until a flow without packets is forgotten.
pub const TIMEOUT_TCP_ESTABLISHED: u32 = 8000;
/// TCP, no answer yet.
pub const TIMEOUT_TCP_SYN: u32 = 60;
/// TCP after FIN both ways or RST.
pub const TIMEOUT_TCP_CLOSED: u32 = 10;
/// UDP with answers.
pub const TIMEOUT_UDP: u32 = 120;
/// UDP without an answer, and anything else.
pub const TIMEOUT_UDP_UNREPLIED: u32 = 30;
/// ICMP echo.
pub const TIMEOUT_ICMP: u32 = 30;
/// Fragments of a datagram.
pub const TIMEOUT_FRAGMENT: u32 = 30;

/// The link-local gateway of every pod, and the source that a pod sees when it reaches itself through a Service.
pub const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];
/// Source of the host's own traffic to a Service whose endpoint is the node.
pub const HOST_LOOP_V4: [u8; 4] = [169, 254, 1, 2];
/// The same for IPv6: fe80::1 and fe80::2.
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// See [`HOST_LOOP_V4`].
pub const HOST_LOOP_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// MAC of every node's device of the tunnel: what is addressed to it is for the receiving host.
pub const TUNNEL_MAC: [u8; 6] = [0x0a, 0x6b, 0x65, 0x6c, 0, 2];
/// Sender of every frame in the tunnel: a device takes its own address there for a loop.
pub const TUNNEL_SENDER_MAC: [u8; 6] = [0x0a, 0x6b, 0x65, 0x6c, 0, 3];
/// First and last port for translated sources.
pub const SNAT_PORTS: (u16, u16) = (20_000, 29_999);

/// `skb->mark` of a packet that the programs hand to the stack translated, or redirect to an uplink translated: the hooks
/// at the way out leave it alone and clear the mark. (Of all that a packet carries only the mark survives fragmenting.)
/// Dry-run marks are never this value.
pub const MARK_DONE: u32 = 0x6b65_0000;
