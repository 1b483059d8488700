//! The maps, under the names that `keelson-abi` gives them, and typed access to those that only the programs' shared
//! parts read.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use keelson_abi::{
    Addr, Affinity, AffinityKey, BACKEND_BLOCK, Backend, BackendBlock, BackendKey, COUNTERS, Endpoint,
    FLOW_RING, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, HostPort, HostPortKey,
    MAX_AFFINITY, MAX_BACKENDS, MAX_ENDPOINTS, MAX_FLOWS, MAX_FRAGMENTS, MAX_FRONTENDS, MAX_HOST_PORTS,
    MAX_MAGLEV, MAX_MEMBERS, MAX_PREFIXES, MAX_SOURCE_RANGES, MaglevBlock, MaglevKey, Member, MemberKey,
    NodeConfig, Prefix, RingSlot, Trace,
};

use crate::packet::Work;

// Hash maps grow with use: an idle node stays small (a lookup costs 10 ns more than in a preallocated one).

#[map(name = "endpoint")]
static ENDPOINT: HashMap<Addr, Endpoint> = HashMap::with_max_entries(MAX_ENDPOINTS, BPF_F_NO_PREALLOC);
#[map(name = "hostport")]
static HOSTPORT: HashMap<HostPortKey, HostPort> =
    HashMap::with_max_entries(MAX_HOST_PORTS, BPF_F_NO_PREALLOC);
#[map(name = "node")]
static NODE: Array<NodeConfig> = Array::with_max_entries(1, 0);
#[map(name = "prefix")]
static PREFIX: LpmTrie<Addr, Prefix> = LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);
#[map(name = "frontend")]
static FRONTEND: HashMap<FrontendKey, Frontend> = HashMap::with_max_entries(MAX_FRONTENDS, BPF_F_NO_PREALLOC);
#[map(name = "backend")]
static BACKEND: HashMap<BackendKey, BackendBlock> =
    HashMap::with_max_entries(MAX_BACKENDS, BPF_F_NO_PREALLOC);
#[map(name = "member")]
static MEMBER: HashMap<MemberKey, Member> = HashMap::with_max_entries(MAX_MEMBERS, BPF_F_NO_PREALLOC);
#[map(name = "maglev")]
static MAGLEV: HashMap<MaglevKey, MaglevBlock> = HashMap::with_max_entries(MAX_MAGLEV, BPF_F_NO_PREALLOC);
#[map(name = "source_range")]
static SOURCE_RANGE: LpmTrie<ServiceSource, u32> =
    LpmTrie::with_max_entries(MAX_SOURCE_RANGES, BPF_F_NO_PREALLOC);
#[map(name = "affinity")]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(MAX_AFFINITY, 0);
// Not LRU: that would evict one half of a pair.
#[map(name = "flow")]
pub static FLOW: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map(name = "flow_ring")]
pub static FLOW_RING_MAP: Array<RingSlot> = Array::with_max_entries(FLOW_RING, 0);
#[map(name = "flow_cursor")]
pub static FLOW_CURSOR: Array<u64> = Array::with_max_entries(2, 0);
#[map(name = "fragment")]
pub static FRAGMENT: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
#[map(name = "counter")]
pub static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map(name = "drop")]
pub static DROP: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map(name = "trace")]
pub static TRACE: PerCpuArray<Trace> = PerCpuArray::with_max_entries(1, 0);
/// Working set of the packet at hand; nothing outlives a run.
#[map(name = "scratch")]
static SCRATCH: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The working set of this CPU.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: a program of type classifier is never interrupted by another one on its CPU, so this is the only
    // reference; `Work` is made of integers, any content is valid.
    SCRATCH.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The node's configuration; all zero until somebody has written it.
#[inline(always)]
pub fn node() -> Option<&'static NodeConfig> {
    NODE.get(0)
}

/// The local pod that has this address.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<&'static Endpoint> {
    // SAFETY: entries of a map without preallocation are freed after a grace period, which ends after this run.
    ENDPOINT.get_ptr(addr).map(|entry| unsafe { &*entry })
}

/// The kind of network that the address belongs to; 0 = outside.
#[inline(always)]
pub fn prefix_kind(addr: &Addr) -> u32 {
    match prefix(addr) {
        Some(prefix) => prefix.kind,
        None => 0,
    }
}

/// The network that the address belongs to; nothing = outside.
#[inline(always)]
pub fn prefix(addr: &Addr) -> Option<&'static Prefix> {
    PREFIX.get(Key::new(128, *addr))
}

/// The frontend under exactly this key.
#[inline(always)]
pub fn frontend(key: &FrontendKey) -> Option<&'static Frontend> {
    // SAFETY: as for `endpoint`.
    FRONTEND.get_ptr(key).map(|entry| unsafe { &*entry })
}

/// One slot of a revision.
#[inline(always)]
pub fn backend(service: u32, revision: u32, slot: u32) -> Option<&'static Backend> {
    let key = BackendKey {
        service,
        revision,
        block: slot / BACKEND_BLOCK,
    };
    // SAFETY: as for `endpoint`.
    let block = unsafe { &*BACKEND.get_ptr(&key)? };
    block.slots.get((slot % BACKEND_BLOCK) as usize)
}

/// The serving endpoint of a Service.
#[inline(always)]
pub fn member(key: &MemberKey) -> Option<&'static Member> {
    // SAFETY: as for `endpoint`.
    let member = MEMBER.get_ptr(key).map(|entry| unsafe { &*entry });
    member.filter(|member| member.flags & keelson_abi::MEMBER_GONE == 0)
}

/// One block of a Maglev table.
#[inline(always)]
pub fn maglev(key: &MaglevKey) -> Option<&'static MaglevBlock> {
    // SAFETY: as for `endpoint`.
    MAGLEV.get_ptr(key).map(|entry| unsafe { &*entry })
}

/// What the `source_range` trie is asked: its key without the length.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ServiceSource {
    service_be: u32,
    addr: Addr,
}

/// Whether the Service lets this source in.
#[inline(always)]
pub fn in_source_ranges(service: u32, source: &Addr) -> bool {
    let asked = ServiceSource {
        service_be: service.to_be(),
        addr: *source,
    };
    SOURCE_RANGE.get(Key::new(160, asked)).is_some()
}

/// The pod behind a port of the host.
#[inline(always)]
pub fn hostport(key: &HostPortKey) -> Option<&'static HostPort> {
    // SAFETY: as for `endpoint`.
    HOSTPORT.get_ptr(key).map(|entry| unsafe { &*entry })
}
