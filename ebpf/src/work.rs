//! What is known about the packet at hand, and where it is.

use keelson_abi::Addr;
use keelson_abi::{
    FLOW_CLIENT_EGRESS, FLOW_CLIENT_HOST, FLOW_CLIENT_OUTSIDE, FLOW_CLIENT_POD, Flow, FlowKey,
};

use crate::packet::{ACK, ECHO_REQUEST, ICMP, ICMPV6, RST, SCTP, SYN, TCP, is_connected};
use crate::service::Why;

/// A tuple with ports (ICMP echo: the identifier).
pub const KIND_FLOW: u32 = 0;
/// A fragment after the first: addresses only can be rewritten.
pub const KIND_FRAGMENT: u32 = 1;
/// An ICMP error: [`Work::quote`] is the tuple it is about.
pub const KIND_ERROR: u32 = 2;
/// Addresses only, no ports to look at.
pub const KIND_OTHER: u32 = 3;

/// Working set of the packet at hand.
#[repr(C)]
pub struct Work {
    /// Tuple as the packet shows it.
    pub key: FlowKey,
    /// Tuple that it is to show.
    pub to: FlowKey,
    /// ICMP error: the tuple quoted.
    pub quote: FlowKey,
    /// ICMP error: the tuple that the quote is to show.
    pub quote_to: FlowKey,
    /// Key of the entry that belongs to a stub.
    pub entry_key: FlowKey,
    /// Tuple of the answer, as a lookup or insert needs it.
    pub reverse: FlowKey,
    /// A flow about to be made.
    pub flow: Flow,
    /// Its stub.
    pub stub: Flow,
    /// `KIND_*`.
    pub kind: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// TCP flags; of SCTP those that mean the same: SYN opens, RST ends.
    pub tcp: u32,
    /// Bytes from the transport header on; 0 = not all of them are here.
    pub length: u32,
    /// Time to live.
    pub ttl: u32,
    /// ICMP type (echo: 8 request, 0 reply).
    pub icmp_type: u32,
    /// Offset of the quoted IP header.
    pub quote_l3: u32,
    /// Offset of the quoted transport header.
    pub quote_l4: u32,
    /// Coarse monotonic seconds.
    pub now: u32,
    /// Whether only the trace map is to be written.
    pub dry: u32,
    /// Whether the rewrite clears DF.
    pub clear_df: u32,
    /// Whether the packet came to `keelson1` by lo, whose MTU says nothing about the way ahead.
    pub by_lo: u32,
    /// Whether `lo_egress` sent the packet to `keelson1`: the host asked an address of its own.
    pub from_lo: u32,
    /// Device a route lookup gave.
    pub oif: u32,
    /// Source address a route lookup gave; all zero = none.
    pub route_src: Addr,
    /// `DropReason` of a step that failed.
    pub reason: u32,
    /// `BACKEND_*` of the endpoint chosen.
    pub backend_flags: u32,
    /// `FLOW_*` that a flow of the Service asked for has.
    pub extra_flags: u32,
    /// Why the endpoint was chosen.
    pub why: Why,
    /// Epoch of the local pod that sent the packet; 0 = no local pod did.
    pub pod_epoch: u32,
    /// Its namespace's id, -1 unknown.
    pub pod_netns: i32,
    /// `FLOW_*` of the flow that the packet belongs to.
    pub flags: u32,
    /// Whether the flow just asked for had been made by another CPU, which may have chosen another server.
    pub adopted: u32,
    /// Device towards its server, where that is neither a local pod nor the node.
    pub server_ifindex: u32,
}

impl Work {
    /// Whether the packet opens a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        is_connected(self.key.proto) && self.tcp & (SYN | ACK | RST) == SYN
    }

    /// Whether a flow may begin with this packet.
    #[inline(always)]
    pub fn may_open(&self) -> bool {
        if self.kind != KIND_FLOW {
            return false;
        }
        match self.key.proto {
            TCP | SCTP => self.is_syn(),
            ICMP | ICMPV6 => self.icmp_type == ECHO_REQUEST,
            _ => true,
        }
    }
}

/// The hook that a program stands at.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// From pods.
    PodIngress = FLOW_CLIENT_POD,
    /// From outside.
    UplinkIngress = FLOW_CLIENT_OUTSIDE,
    /// From processes of the host, at `keelson1`.
    HostIngress = FLOW_CLIENT_HOST,
    /// To pods, through the stack.
    PodEgress = 1,
    /// To outside.
    UplinkEgress = 2,
}

impl Hook {
    /// The `FLOW_CLIENT_*` of flows whose clients' packets are translated here.
    #[inline(always)]
    pub fn client(self) -> u32 {
        match self {
            Self::PodIngress => FLOW_CLIENT_POD,
            Self::UplinkIngress => FLOW_CLIENT_OUTSIDE,
            Self::HostIngress => FLOW_CLIENT_HOST,
            Self::PodEgress | Self::UplinkEgress => FLOW_CLIENT_EGRESS,
        }
    }

    /// The `FLOW_CLIENT_*` of flows whose clients' answers leave here.
    #[inline(always)]
    pub fn edge_of(self) -> u32 {
        match self {
            Self::PodEgress => FLOW_CLIENT_POD,
            Self::UplinkEgress => FLOW_CLIENT_OUTSIDE,
            _ => 0,
        }
    }
}
