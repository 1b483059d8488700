//! The source that an endpoint is to see: the client's own wherever the answer finds its way back by itself and Kubernetes
//! promises it, else an address of the node.

use keelson_abi::{
    Addr, CHOICE_HOST_PORT, FLOW_BY_LO, FLOW_SNAT, FLOW_TO_LOCAL, FLOW_TO_NODE, FRONTEND_EXTERNAL,
    FRONTEND_LOCAL, GATEWAY_V4, GATEWAY_V6, HOST_LOOP_V4, HOST_LOOP_V6, MASQUERADE_ALL, MASQUERADE_EXTERNAL,
    MASQUERADE_HAIRPIN, MASQUERADE_HOST, MASQUERADE_LOCAL, MASQUERADE_NONE, MASQUERADE_OUTSIDE,
    NODE_MASQUERADE_ALL, NodeConfig, PREFIX_NODE_ADDRESS, SOURCE_HOST, SOURCE_POD,
};

use crate::flow::Ports;
use crate::packet::{Hook, Skb, TCP, Work, is_loopback, same_addr};
use crate::socket::{self, Found};
use crate::{direct, fib, maps, tunnel};

/// Translates the source in `work.to` where it must be, and says which ports it may have. `kind` is the `PREFIX_*` of what
/// the client asked.
#[inline(never)]
pub fn translate_source(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, kind: u32) -> Ports {
    let to_node = work.flow.flags & FLOW_TO_NODE != 0;
    let reason = reason(work, node, to_node);
    work.why.masquerade = reason;
    let ports = match hook {
        Hook::HostIngress => from_host(work, node, kind, to_node),
        _ => match reason {
            MASQUERADE_NONE => Ports::Keep,
            // A pod of another node that reaches itself by way of this one is answered here: the gateway's address would mean
            // its own node's.
            MASQUERADE_HAIRPIN if hook == Hook::PodIngress => {
                // An address of its own would come back to the pod as its own.
                work.to.src = of_family(&work.key.dst, GATEWAY_V4, GATEWAY_V6);
                Ports::Keep
            }
            _ => {
                work.to.src = own_address(work, node);
                Ports::Range
            }
        },
    };
    if hook == Hook::UplinkIngress {
        work.flow.client_ifindex = direct::way_back(skb, work);
    }
    if !same_addr(&work.key.src, &work.to.src) {
        work.flow.flags |= FLOW_SNAT;
    }
    if ports == Ports::Keep && is_taken(skb, work, hook, to_node) {
        Ports::Range
    } else {
        ports
    }
}

/// Why the source is an address of the node; `MASQUERADE_NONE` = it is the client's own.
#[inline(always)]
fn reason(work: &Work, node: &NodeConfig, to_node: bool) -> u32 {
    if same_addr(&work.to.dst, &work.key.src) {
        return MASQUERADE_HAIRPIN;
    }
    // The node's own sockets answer everybody by the way the question came; with a source of its own the node
    // would not take the packet. And host ports are a pod's own affair.
    let stays = (to_node && work.why.source != SOURCE_HOST) || work.why.choice == CHOICE_HOST_PORT;
    if stays {
        return MASQUERADE_NONE;
    }
    let flags = work.why.flags;
    if flags & FRONTEND_EXTERNAL == 0 {
        // masqueradeAll is about cluster addresses; external ones say by their policy what endpoints are to see.
        return if node.flags & NODE_MASQUERADE_ALL != 0 {
            MASQUERADE_ALL
        } else if work.why.source == SOURCE_POD {
            MASQUERADE_NONE
        } else {
            MASQUERADE_OUTSIDE
        };
    }
    if flags & FRONTEND_LOCAL == 0 {
        return MASQUERADE_EXTERNAL;
    }
    if work.why.source == SOURCE_HOST {
        MASQUERADE_HOST
    } else {
        MASQUERADE_NONE
    }
}

/// The node's address towards the endpoint chosen.
#[inline(always)]
fn own_address(work: &Work, node: &NodeConfig) -> Addr {
    if work.flow.flags & FLOW_TO_LOCAL != 0 {
        fib::own(node, &work.to.dst)
    } else {
        fib::source(work, node)
    }
}

/// The one of two addresses that is of the family of `other`.
#[inline(always)]
fn of_family(other: &Addr, v4: [u8; 4], v6: [u8; 16]) -> Addr {
    if other.is_v4() {
        return Addr::v4(u32::from_ne_bytes(v4));
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6;
    Addr([
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ])
}

/// A process of the host: its source is the node's already, unless it means nothing beyond the host.
#[inline(always)]
fn from_host(work: &mut Work, node: &NodeConfig, kind: u32, to_node: bool) -> Ports {
    if work.from_lo != 0 || kind == PREFIX_NODE_ADDRESS || is_loopback(&work.key.dst) {
        work.flow.flags |= FLOW_BY_LO;
    }
    if to_node {
        work.why.masquerade = MASQUERADE_LOCAL;
        work.to.src = of_family(&work.key.dst, HOST_LOOP_V4, HOST_LOOP_V6);
        return Ports::Keep;
    }
    if is_loopback(&work.key.src) {
        work.why.masquerade = MASQUERADE_LOCAL;
        work.to.src = own_address(work, node);
        return Ports::Range;
    }
    if tunnel::is_foreign_source(work, node, work.flow.server_ifindex) {
        work.why.masquerade = MASQUERADE_LOCAL;
        work.to.src = own_address(work, node);
        return Ports::Range;
    }
    let masquerades = work.why.masquerade != MASQUERADE_NONE;
    if masquerades && maps::prefix_kind(&work.key.src) != PREFIX_NODE_ADDRESS {
        // Bound to an address that only the host knows: of a bridge, say.
        work.to.src = own_address(work, node);
        return Ports::Range;
    }
    Ports::Keep
}

/// Whether a live connection that no flow knows of has the tuple already.
#[inline(always)]
fn is_taken(skb: Skb, work: &mut Work, hook: Hook, to_node: bool) -> bool {
    if work.key.proto != TCP {
        return false;
    }
    let netns = match hook {
        Hook::PodIngress if work.pod_netns >= 0 => work.pod_netns,
        Hook::HostIngress if !to_node => socket::HERE,
        Hook::UplinkIngress if to_node => {
            // The client is out of sight; the server's end of the connection is not.
            return socket::lookup_tcp(skb, &work.to, socket::HERE) == Found::Connection;
        }
        _ => return false,
    };
    work.reverse = work.to.reverse();
    socket::lookup_tcp(skb, &work.reverse, netns) == Found::Connection
}
