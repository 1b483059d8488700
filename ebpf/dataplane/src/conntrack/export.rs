//! A flow → the entry of the kernel's tracker that carries the connection on. Pure.

use std::collections::HashMap;

use keelson_abi::{
    FLOW_CLIENT, FLOW_CLIENT_EGRESS, FLOW_CLIENT_HOST, FLOW_FIN_CLIENT, FLOW_FIN_SERVER, FLOW_REPLIED,
    FLOW_RST, FLOW_STUB, FLOW_TO_NODE, Flow, FlowKey, TIMEOUT_TCP_ESTABLISHED, TIMEOUT_TCP_SYN, TIMEOUT_UDP,
    TIMEOUT_UDP_UNREPLIED,
};

use super::{
    entry::{
        ASSURED, CONFIRMED, Entry, SEEN_REPLY, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT,
        TCP_FLAG_BE_LIBERAL, TCP_FLAG_CLOSE_INIT, Tcp,
    },
    import::{Passage, SCTP, TCP, UDP},
};

/// A connection that the kernel can carry on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// What the kernel's tracker is to know.
    pub entry: Entry,
    /// What netfilter sees as long as the programs carry it.
    pub passage: Passage,
}

/// Why a flow is not handed back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kept {
    /// It is over, or silent for too long.
    Ended,
    /// The kernel takes no association without its verification tags, and the programs do not look at them.
    Sctp,
    /// An echo, which is not worth it.
    Protocol,
    /// The kernel did not take it.
    Refused,
}

impl Kept {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Sctp => "sctp",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
        }
    }
}

/// Decide about one flow among all. `None`: it is no translated connection of its own.
pub fn decide(
    key: &FlowKey,
    flow: &Flow,
    all: &HashMap<FlowKey, Flow>,
    now: u32,
) -> Option<Result<Given, Kept>> {
    if flow.flags & FLOW_STUB != 0 || is_continued(key, flow, all) {
        return None;
    }
    let to = destination(flow, all);
    if to == *key {
        return None;
    }
    Some(give(key, flow, to, now))
}

/// Whether the flow is the second half of another one: its packets are translated at the client's edge and once more at
/// the way out.
fn is_continued(key: &FlowKey, flow: &Flow, all: &HashMap<FlowKey, Flow>) -> bool {
    flow.flags & FLOW_CLIENT == FLOW_CLIENT_EGRESS
        && all
            .get(&key.reverse())
            .is_some_and(|stub| stub.flags & FLOW_STUB != 0 && stub.other != *key)
}

/// The tuple that the server sees.
fn destination(flow: &Flow, all: &HashMap<FlowKey, Flow>) -> FlowKey {
    match all.get(&flow.other) {
        Some(next)
            if next.flags & FLOW_CLIENT == FLOW_CLIENT_EGRESS && is_continued(&flow.other, next, all) =>
        {
            next.other
        }
        _ => flow.other,
    }
}

fn give(key: &FlowKey, flow: &Flow, to: FlowKey, now: u32) -> Result<Given, Kept> {
    match key.proto {
        TCP | UDP => {}
        SCTP => return Err(Kept::Sctp),
        _ => return Err(Kept::Protocol),
    }
    const BOTH: u32 = FLOW_FIN_CLIENT | FLOW_FIN_SERVER;
    let replied = flow.flags & FLOW_REPLIED != 0;
    if key.proto == TCP && (flow.flags & FLOW_RST != 0 || flow.flags & BOTH == BOTH || !replied) {
        // A handshake that nobody has answered is sent anew.
        return Err(Kept::Ended);
    }
    let lasts = match (key.proto, replied) {
        (TCP, true) => TIMEOUT_TCP_ESTABLISHED,
        (TCP, false) => TIMEOUT_TCP_SYN,
        (_, true) => TIMEOUT_UDP,
        (_, false) => TIMEOUT_UDP_UNREPLIED,
    };
    let silent = now.saturating_sub(flow.last_seen);
    let timeout = lasts
        .checked_sub(silent)
        .filter(|left| *left > 0)
        .ok_or(Kept::Ended)?;
    let mut entry = Entry {
        original: *key,
        reply: to.reverse(),
        status: CONFIRMED | if replied { SEEN_REPLY | ASSURED } else { 0 },
        timeout,
        ..Entry::default()
    };
    if key.proto == TCP {
        entry.tcp = Some(course(flow.flags));
    }
    let passage = match flow.flags & FLOW_CLIENT {
        FLOW_CLIENT_HOST => Passage::Host(*key),
        // A process of the host whose direct packets needed another port: translated behind netfilter.
        FLOW_CLIENT_EGRESS if flow.client_epoch == 0 => Passage::Host(*key),
        _ if flow.flags & FLOW_TO_NODE != 0 => Passage::Stack(flow.other),
        _ => Passage::Redirected,
    };
    Ok(Given { entry, passage })
}

/// The programs do not follow windows: whatever comes is to be taken.
fn course(flags: u32) -> Tcp {
    let (client, server) = (flags & FLOW_FIN_CLIENT != 0, flags & FLOW_FIN_SERVER != 0);
    let finished = |is: bool| TCP_FLAG_BE_LIBERAL | if is { TCP_FLAG_CLOSE_INIT } else { 0 };
    Tcp {
        state: if client || server {
            TCP_FIN_WAIT
        } else {
            TCP_ESTABLISHED
        },
        original: finished(client),
        reply: finished(server),
    }
}

/// An entry that translates nothing: a connection that netfilter is only to let pass, whatever rules say of new ones.
pub fn transparent(tuple: &FlowKey, like: &Entry) -> Entry {
    Entry {
        original: *tuple,
        reply: tuple.reverse(),
        status: CONFIRMED | SEEN_REPLY | ASSURED,
        timeout: like.timeout.max(1),
        tcp: like.tcp.map(|tcp| Tcp {
            state: match tcp.state {
                TCP_FIN_WAIT | TCP_CLOSE_WAIT => tcp.state,
                _ => TCP_ESTABLISHED,
            },
            original: TCP_FLAG_BE_LIBERAL,
            reply: TCP_FLAG_BE_LIBERAL,
        }),
        ..Entry::default()
    }
}
