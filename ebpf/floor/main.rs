//! What the programs' work costs at least: the same map operations and helper calls as a packet of a Service makes, in the
//! same order over maps of the same shape, with nothing decided between them. Only the benchmarks load it.
//!
//! | program | packet whose operations it makes |
//! |---|---|
//! | `floor_established` | a client's packet of a flow, delivered to a local pod |
//! | `floor_new` | a client's first packet: Service looked up, endpoint chosen, flow made, delivered |
#![no_std]
#![no_main]

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_sock_tuple,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_l4_csum_replace, bpf_loop,
    bpf_redirect_peer, bpf_sk_lookup_tcp, bpf_sk_release,
};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::programs::TcContext;
use keelson_abi::{
    Addr, BackendBlock, BackendKey, Endpoint, FLOW_RING, Flow, FlowKey, Frontend, FrontendKey, MAX_BACKENDS,
    MAX_ENDPOINTS, MAX_FLOWS, MAX_FRONTENDS, MAX_PREFIXES, NodeConfig, Prefix,
};

#[map(name = "floor_endpoint")]
static ENDPOINT: HashMap<Addr, Endpoint> = HashMap::with_max_entries(MAX_ENDPOINTS, BPF_F_NO_PREALLOC);
#[map(name = "floor_node")]
static NODE: Array<NodeConfig> = Array::with_max_entries(1, 0);
#[map(name = "floor_prefix")]
static PREFIX: LpmTrie<Addr, Prefix> = LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);
#[map(name = "floor_frontend")]
static FRONTEND: HashMap<FrontendKey, Frontend> = HashMap::with_max_entries(MAX_FRONTENDS, BPF_F_NO_PREALLOC);
#[map(name = "floor_backend")]
static BACKEND: HashMap<BackendKey, BackendBlock> =
    HashMap::with_max_entries(MAX_BACKENDS, BPF_F_NO_PREALLOC);
#[map(name = "floor_flow")]
static FLOW: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map(name = "floor_ring")]
static RING: Array<FlowKey> = Array::with_max_entries(FLOW_RING, 0);
#[map(name = "floor_counter")]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(32, 0);
#[map(name = "floor_scratch")]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Slots of the ring examined for a new flow.
const RING_STEPS: u32 = 4;
/// Keys and values, off the stack.
struct Scratch {
    client: Addr,
    server: Addr,
    tuple: FlowKey,
    reverse: FlowKey,
    frontend: FrontendKey,
    backend: BackendKey,
    flow: Flow,
}

/// Fills the keys from the packet: an Ethernet, an IPv4 and a TCP header without options.
#[inline(always)]
fn read(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    // SAFETY: the context is valid; every access lies within the 54 bytes that are checked.
    unsafe {
        let (start, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if start + 54 > end {
            return false;
        }
        let word = |offset: usize| *((start + offset) as *const u32);
        let half = |offset: usize| *((start + offset) as *const u16);
        scratch.client = Addr::v4(word(26));
        scratch.tuple.src = Addr::v4(word(26));
        scratch.tuple.dst = Addr::v4(word(30));
        scratch.tuple.sport_be = half(34);
        scratch.tuple.dport_be = half(36);
        scratch.tuple.proto = 6;
        scratch.tuple.reserved = [0; 3];
    }
    true
}

/// Looks up and keeps the compiler from leaving the lookup out.
macro_rules! touch {
    ($lookup:expr) => {
        match $lookup {
            Some(value) => {
                core::hint::black_box(value);
            }
            None => {}
        }
    };
}

/// Checksums, size check and the way into the pod.
#[inline(always)]
fn deliver(skb: *mut __sk_buff) -> i32 {
    let mut mtu = 0;
    // SAFETY: the context is valid, and the offset lies within the packet.
    unsafe {
        let ifindex = (*skb).ifindex;
        bpf_check_mtu(skb.cast(), ifindex, &mut mtu, 0, u64::from(BPF_MTU_CHK_SEGS));
        bpf_l4_csum_replace(skb, 50, 0, 0x1234, u64::from(BPF_F_PSEUDO_HDR));
        bpf_l4_csum_replace(skb, 50, 0, 0x4321, 0);
        (*skb).mark = 0;
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

/// What every packet costs before anything is known of it: working set, node, headers, time, the sender's pod.
#[inline(always)]
fn begin(skb: *mut __sk_buff) -> Option<&'static mut Scratch> {
    // SAFETY: a program is not interrupted by another of its kind on its CPU, so this is the only reference.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    touch!(NODE.get_ptr(0));
    if !read(skb, scratch) {
        return None;
    }
    // SAFETY: no preconditions.
    core::hint::black_box(unsafe { bpf_ktime_get_coarse_ns() });
    touch!(ENDPOINT.get_ptr(&scratch.client));
    Some(scratch)
}

/// A packet of a flow.
#[classifier]
pub fn floor_established(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(scratch) = begin(skb) else { return 0 };
    if let Some(flow) = FLOW.get_ptr_mut(&scratch.tuple) {
        // SAFETY: values stay readable until the run ends.
        scratch.server = unsafe { (*flow).other.dst };
    }
    touch!(ENDPOINT.get_ptr(&scratch.server));
    deliver(skb)
}

/// The first packet of a flow.
#[classifier]
pub fn floor_new(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(scratch) = begin(skb) else { return 0 };
    touch!(FLOW.get_ptr(&scratch.tuple));
    touch!(ENDPOINT.get_ptr(&scratch.tuple.dst));
    touch!(PREFIX.get(Key::new(128, scratch.tuple.dst)));
    choose(scratch);
    touch!(ENDPOINT.get_ptr(&scratch.server));
    connected(skb, scratch);
    ring();
    make(scratch);
    deliver(skb)
}

/// The frontend, a random number, the endpoint.
#[inline(always)]
fn choose(scratch: &mut Scratch) {
    scratch.frontend.addr = scratch.tuple.dst;
    scratch.frontend.port_be = scratch.tuple.dport_be;
    scratch.frontend.proto = 6;
    scratch.frontend.reserved = 0;
    let Some(frontend) = FRONTEND.get_ptr(&scratch.frontend) else {
        return;
    };
    // SAFETY: values stay readable until the run ends; the random number has no preconditions.
    unsafe {
        core::hint::black_box(bpf_get_prandom_u32());
        scratch.backend.service = (*frontend).service;
        scratch.backend.revision = (*frontend).revision;
    }
    scratch.backend.block = 0;
    if let Some(block) = BACKEND.get_ptr(&scratch.backend) {
        // SAFETY: as above.
        scratch.server = unsafe { (*block).slots[0].addr };
    }
}

/// Whether a connection with the tuple is alive.
#[inline(always)]
fn connected(skb: *mut __sk_buff, scratch: &Scratch) {
    // SAFETY: the type is a union of integers; context and tuple are valid; the socket is released.
    unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        tuple.__bindgen_anon_1.ipv4.saddr = scratch.server.v4_be();
        tuple.__bindgen_anon_1.ipv4.daddr = scratch.client.v4_be();
        tuple.__bindgen_anon_1.ipv4.sport = scratch.tuple.dport_be;
        tuple.__bindgen_anon_1.ipv4.dport = scratch.tuple.sport_be;
        let socket = bpf_sk_lookup_tcp(skb.cast(), core::ptr::from_mut(&mut tuple), 12, u64::MAX, 0);
        if !socket.is_null() {
            bpf_sk_release(socket.cast());
        }
    }
}

/// The slots of the ring that a new flow looks after.
#[inline(always)]
fn ring() {
    // SAFETY: the callback has the type that the helper calls; it needs no context.
    unsafe {
        bpf_loop(RING_STEPS, ring_one as *mut c_void, core::ptr::null_mut(), 0);
    }
}

unsafe extern "C" fn ring_one(step: u32, _context: *mut c_void) -> i64 {
    if let Some(slot) = RING.get_ptr(1 + step) {
        // SAFETY: array values live as long as the map; the value of a hash map is only looked at.
        unsafe { touch!(FLOW.get_ptr(&*slot)) };
    }
    0
}

/// Both legs of the flow, its slot, its count.
#[inline(always)]
fn make(scratch: &mut Scratch) {
    scratch.reverse = scratch.tuple.reverse();
    scratch.flow.other = scratch.tuple;
    let _ = FLOW.insert(&scratch.reverse, &scratch.flow, 1);
    let _ = FLOW.insert(&scratch.tuple, &scratch.flow, 1);
    if let Some(slot) = RING.get_ptr_mut(7) {
        // SAFETY: array values live as long as the map.
        unsafe { *slot = scratch.tuple };
    }
    if let Some(counter) = COUNTER.get_ptr_mut(0) {
        // SAFETY: the counter of this CPU.
        unsafe { *counter += 1 };
    }
}

/// The helpers used are reserved for programs under a licence the kernel knows as compatible.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: a surviving panic makes the verifier refuse the program.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
