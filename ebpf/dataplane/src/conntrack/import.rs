//! A translated connection of the kernel's tracker → the flows that carry it on. Pure.
//!
//! What netfilter sees of a connection once its packets are translated by the programs decides how it changes hands:
//!
//! | passage | netfilter sees | so |
//! |---|---|---|
//! | redirected | nothing: from the client's edge on packets pass it by | flow first, then programs; the entry goes afterwards |
//! | by the stack | the translated tuple | with its entry still there netfilter would translate the translated once more: the entry is replaced by one that translates nothing as the flow is written |
//! | by the host | what the process sends | the same, with the process's own tuple; otherwise rules of the proxy that was here before would take the next packet for a new connection |

use std::collections::{HashMap, HashSet};

use keelson_abi::{
    Addr, Endpoint, FLOW_BY_LO, FLOW_CLIENT, FLOW_CLIENT_EGRESS, FLOW_CLIENT_HOST, FLOW_CLIENT_OUTSIDE,
    FLOW_CLIENT_POD, FLOW_FIN_CLIENT, FLOW_FIN_SERVER, FLOW_MEMBERS, FLOW_REPLIED, FLOW_RESET_GONE,
    FLOW_SNAT, FLOW_TO_LOCAL, FLOW_TO_NODE, FRONTEND_MEMBERS, FRONTEND_NODE_PORT, FRONTEND_RESET_GONE, Flow,
    FlowKey, Frontend, FrontendKey, NODE_SNAT_PODS, NodeConfig,
};

use super::entry::{
    DYING, Entry, SCTP_CLOSED, SCTP_SHUTDOWN_ACK_SENT, SEEN_REPLY, TCP_CLOSE, TCP_CLOSE_WAIT,
    TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_FLAG_CLOSE_INIT, TCP_LAST_ACK, TCP_TIME_WAIT,
};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// SCTP.
pub const SCTP: u8 = 132;

/// An endpoint of a Service port that serves: service, address, port.
pub type Serving = (u32, Addr, u16);

/// What the decision needs to know of the node.
pub struct Place {
    /// Its values.
    pub node: NodeConfig,
    /// All its addresses, of every device.
    pub own: HashSet<Addr>,
    /// Its pods.
    pub endpoints: HashMap<Addr, Endpoint>,
    /// What clients may ask for.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// Who serves.
    pub serving: HashSet<Serving>,
    /// Devices whose ingress the programs watch, pods' links aside: answers to the node itself are translated only there.
    pub watched: HashSet<u32>,
    /// The device that leads to an address.
    pub route: Box<dyn Fn(Addr) -> Option<u32>>,
    /// Coarse monotonic seconds.
    pub now: u32,
}

/// What netfilter sees of a connection that the programs carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// Nothing.
    Redirected,
    /// This tuple, and the one of its answers: translated packets pass the stack.
    Stack(FlowKey),
    /// This tuple, and the one of its answers: a process of the host sends it.
    Host(FlowKey),
}

/// A connection that Keelson can carry on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its flow; the slot in the ring is chosen when it is written.
    pub flow: (FlowKey, Flow),
    /// What netfilter will see.
    pub passage: Passage,
}

/// Why a connection is left to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Left {
    /// Neither TCP, UDP nor SCTP.
    Protocol,
    /// It belongs to a zone, which Services do not.
    Zone,
    /// It is over.
    Ended,
    /// It asks for no Service of ours: a host port of another plugin, say.
    NoService,
    /// Its endpoint serves no more: the next datagram is to find another.
    EndpointGone,
    /// A process of the host and an endpoint that is the host: their packets never leave the stack.
    WithinHost,
    /// Its client, or an endpoint that answers the node, is behind a device where no program runs: another plugin's pod, say.
    Unwatched,
    /// No route leads to one of its ends.
    NoRoute,
    /// Another connection has its tuples by now.
    Taken,
    /// The flow table is full.
    Full,
}

impl Left {
    /// For a metric's label, a log, an event.
    pub fn word(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Zone => "zone",
            Self::Ended => "ended",
            Self::NoService => "no-service",
            Self::EndpointGone => "endpoint-gone",
            Self::WithinHost => "within-host",
            Self::Unwatched => "unwatched",
            Self::NoRoute => "no-route",
            Self::Taken => "taken",
            Self::Full => "full",
        }
    }
}

/// Decide about one translated connection.
pub fn decide(entry: &Entry, place: &Place) -> Result<Taken, Left> {
    let (key, to) = (entry.original, entry.translated());
    if !matches!(key.proto, TCP | UDP | SCTP) {
        return Err(Left::Protocol);
    }
    if entry.zone != 0 {
        return Err(Left::Zone);
    }
    if has_ended(entry) {
        return Err(Left::Ended);
    }
    let mut flow = Flow {
        other: to,
        last_seen: place.now,
        flags: state(entry),
        ..Flow::default()
    };
    if (key.src, key.sport_be) != (to.src, to.sport_be) {
        flow.flags |= FLOW_SNAT;
    }
    let passage = match place.frontend(&key) {
        Some(frontend) => {
            place.serve(&key, &mut flow, &frontend)?;
            place.client(&key, &mut flow)?
        }
        None => place.leave(&key, &mut flow)?,
    };
    Ok(Taken {
        flow: (key, flow),
        passage,
    })
}

fn has_ended(entry: &Entry) -> bool {
    let tcp = entry
        .tcp
        .is_some_and(|tcp| matches!(tcp.state, TCP_TIME_WAIT | TCP_CLOSE));
    let sctp = entry
        .sctp
        .is_some_and(|state| matches!(state, SCTP_CLOSED | SCTP_SHUTDOWN_ACK_SENT));
    tcp || sctp || entry.status & DYING != 0
}

/// What the tracker saw of the connection's course, in a flow's flags.
fn state(entry: &Entry) -> u32 {
    let mut flags = 0;
    if entry.status & SEEN_REPLY != 0 {
        flags |= FLOW_REPLIED;
    }
    let Some(tcp) = entry.tcp else { return flags };
    match tcp.state {
        TCP_LAST_ACK => flags |= FLOW_FIN_CLIENT | FLOW_FIN_SERVER,
        TCP_FIN_WAIT | TCP_CLOSE_WAIT => {
            if tcp.original & TCP_FLAG_CLOSE_INIT != 0 {
                flags |= FLOW_FIN_CLIENT;
            }
            if tcp.reply & TCP_FLAG_CLOSE_INIT != 0 {
                flags |= FLOW_FIN_SERVER;
            }
        }
        TCP_ESTABLISHED => flags |= FLOW_REPLIED,
        _ => {}
    }
    flags
}

impl Place {
    /// The frontend that a client's tuple asks for: as the programs look for it.
    fn frontend(&self, key: &FlowKey) -> Option<Frontend> {
        let loopback = is_loopback_v4(&key.dst);
        let found = self.frontends.get(&FrontendKey {
            addr: if loopback { self.node.ipv4 } else { key.dst },
            port_be: key.dport_be,
            proto: key.proto,
            reserved: 0,
        })?;
        (!loopback || found.flags & FRONTEND_NODE_PORT != 0).then_some(*found)
    }

    fn is_own(&self, address: &Addr) -> bool {
        self.own.contains(address) || std::net::IpAddr::from(*address).is_loopback()
    }

    /// The Service's part of the flow, and the way to its endpoint.
    fn serve(&self, key: &FlowKey, flow: &mut Flow, frontend: &Frontend) -> Result<(), Left> {
        let to = flow.other;
        let serves = self.serving.contains(&(frontend.service, to.dst, to.dport_be));
        if !serves && key.proto == UDP {
            return Err(Left::EndpointGone);
        }
        flow.service = frontend.service;
        // An established connection outlives its endpoint's place in the Service, unless the Service asks otherwise: of an
        // older generation it is looked at anew.
        flow.generation = if serves {
            frontend.generation
        } else {
            frontend.generation.wrapping_sub(1)
        };
        if frontend.flags & FRONTEND_MEMBERS != 0 {
            flow.flags |= FLOW_MEMBERS;
        }
        if frontend.flags & FRONTEND_RESET_GONE != 0 {
            flow.flags |= FLOW_RESET_GONE;
        }
        if let Some(server) = self.endpoints.get(&to.dst) {
            flow.flags |= FLOW_TO_LOCAL;
            flow.epoch = server.epoch;
        } else if self.is_own(&to.dst) {
            flow.flags |= FLOW_TO_NODE;
        } else {
            flow.server_ifindex = (self.route)(to.dst).ok_or(Left::NoRoute)?;
            if self.is_own(&to.src) && !self.watched.contains(&flow.server_ifindex) {
                return Err(Left::Unwatched);
            }
        }
        Ok(())
    }

    /// The client's part of the flow of a Service.
    fn client(&self, key: &FlowKey, flow: &mut Flow) -> Result<Passage, Left> {
        let to_node = flow.flags & FLOW_TO_NODE != 0;
        if let Some(pod) = self.endpoints.get(&key.src) {
            flow.flags |= FLOW_CLIENT_POD;
            flow.client_epoch = pod.epoch;
        } else if self.is_own(&key.src) {
            if to_node {
                return Err(Left::WithinHost);
            }
            flow.flags |= FLOW_CLIENT_HOST;
            if self.is_own(&key.dst) {
                flow.flags |= FLOW_BY_LO;
            }
            return Ok(Passage::Host(*key));
        } else {
            flow.flags |= FLOW_CLIENT_OUTSIDE;
            flow.client_ifindex = (self.route)(key.src).ok_or(Left::NoRoute)?;
            if !self.watched.contains(&flow.client_ifindex) {
                // Another plugin's pod.
                return Err(Left::Unwatched);
            }
        }
        Ok(if to_node {
            Passage::Stack(flow.other)
        } else {
            Passage::Redirected
        })
    }

    /// A pod's connection to somebody outside, under an address of the node.
    fn leave(&self, key: &FlowKey, flow: &mut Flow) -> Result<Passage, Left> {
        let to = flow.other;
        let aimed = (key.dst, key.dport_be) != (to.dst, to.dport_be);
        let pod = self.endpoints.get(&key.src).ok_or(Left::NoService)?;
        if aimed || self.node.flags & NODE_SNAT_PODS == 0 || !self.is_own(&to.src) {
            return Err(Left::NoService);
        }
        flow.flags |= FLOW_CLIENT_EGRESS;
        flow.client_epoch = pod.epoch;
        flow.server_ifindex = (self.route)(to.dst).ok_or(Left::NoRoute)?;
        Ok(Passage::Redirected)
    }
}

/// The flow while it changes hands: its legs are there, so that nothing goes astray, but what netfilter might translate once
/// more, or not at all, is sent to a device that does not exist. TCP sends it again.
pub fn held(flow: &Flow, passage: Passage) -> Flow {
    let mut held = *flow;
    match passage {
        Passage::Redirected => {}
        // The client's packets.
        Passage::Stack(_) => {
            held.flags &= !FLOW_TO_NODE;
            held.server_ifindex = 0;
        }
        // The server's.
        Passage::Host(_) => {
            held.flags = held.flags & !FLOW_CLIENT | FLOW_CLIENT_OUTSIDE;
            held.client_ifindex = 0;
        }
    }
    held
}

fn is_loopback_v4(address: &Addr) -> bool {
    address.is_v4() && address.v4_be().to_ne_bytes()[0] == 127
}
