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

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        net::IpAddr,
    };

    use keelson_abi::{
        Addr, Endpoint, FLOW_CLIENT_OUTSIDE, FLOW_CLIENT_POD, Frontend, FrontendKey, NodeConfig,
    };

    use super::*;
    use crate::conntrack::{
        codec,
        entry::TCP_TIME_WAIT,
        import::{self, Left, Place},
    };

    const NOW: u32 = 100_000;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("address").into()
    }

    fn key(src: (&str, u16), dst: (&str, u16), proto: u8) -> FlowKey {
        FlowKey {
            src: addr(src.0),
            dst: addr(dst.0),
            sport_be: src.1.to_be(),
            dport_be: dst.1.to_be(),
            proto,
            reserved: [0; 3],
        }
    }

    /// A connection as another proxy leaves it: what the client sends, what the server sees.
    fn connection(sent: FlowKey, seen: FlowKey) -> Entry {
        Entry {
            original: sent,
            reply: seen.reverse(),
            status: CONFIRMED | SEEN_REPLY | ASSURED,
            timeout: 300,
            tcp: (sent.proto == TCP).then_some(Tcp {
                state: TCP_ESTABLISHED,
                ..Tcp::default()
            }),
            ..Entry::default()
        }
    }

    /// A node with one pod, and Services on port 80 of two addresses and NodePort 30080, all with one endpoint in each family.
    fn place() -> Place {
        let mut frontends = HashMap::new();
        let mut serving = HashSet::new();
        for (vip, node, endpoint) in [
            ("10.96.0.10", "192.168.50.1", "10.244.2.11"),
            ("fd00:60::a", "fd00:50::1", "fd00:f4::b"),
        ] {
            for proto in [TCP, UDP, SCTP] {
                let service = u32::from(proto);
                for (address, port) in [(vip, 80_u16), (node, 30080)] {
                    let asked = FrontendKey {
                        addr: addr(address),
                        port_be: port.to_be(),
                        proto,
                        reserved: 0,
                    };
                    let value = Frontend {
                        service,
                        generation: 7,
                        ..Frontend::default()
                    };
                    frontends.insert(asked, value);
                }
                serving.insert((service, addr(endpoint), 8080_u16.to_be()));
            }
        }
        let pod = Endpoint {
            epoch: 5,
            ..Endpoint::default()
        };
        Place {
            node: NodeConfig::default(),
            own: [addr("192.168.50.1"), addr("fd00:50::1")].into(),
            endpoints: [(addr("10.244.1.5"), pod), (addr("fd00:f4:1::5"), pod)].into(),
            frontends,
            serving,
            watched: [3].into(),
            route: Box::new(|_| Some(3)),
            now: NOW,
        }
    }

    fn cases() -> Vec<(Entry, u32)> {
        let mut all = Vec::new();
        for proto in [TCP, UDP, SCTP] {
            for [vip, node, endpoint, pod, outside] in [
                [
                    "10.96.0.10",
                    "192.168.50.1",
                    "10.244.2.11",
                    "10.244.1.5",
                    "203.0.113.9",
                ],
                [
                    "fd00:60::a",
                    "fd00:50::1",
                    "fd00:f4::b",
                    "fd00:f4:1::5",
                    "2001:db8::9",
                ],
            ] {
                // A pod keeps its source; a client outside is seen as the node, at a port far from those of ours.
                all.push((
                    connection(
                        key((pod, 40_000), (vip, 80), proto),
                        key((pod, 40_000), (endpoint, 8080), proto),
                    ),
                    FLOW_CLIENT_POD,
                ));
                all.push((
                    connection(
                        key((outside, 5000), (node, 30080), proto),
                        key((node, 61_001), (endpoint, 8080), proto),
                    ),
                    FLOW_CLIENT_OUTSIDE,
                ));
                all.push((
                    connection(
                        key((node, 50_000), (vip, 80), proto),
                        key((node, 50_000), (endpoint, 8080), proto),
                    ),
                    FLOW_CLIENT_HOST,
                ));
            }
        }
        all
    }

    #[test]
    fn a_connection_taken_over_and_handed_back_has_the_tuples_it_had() {
        let place = place();
        for (entry, client) in cases() {
            let taken = import::decide(&entry, &place).expect("taken");
            let (key, flow) = taken.flow;
            assert_eq!((key, flow.other.reverse()), (entry.original, entry.reply));
            assert_eq!(flow.flags & FLOW_CLIENT, client);
            assert_eq!(flow.generation, 7);
            let all = HashMap::from([(key, flow)]);
            let given = decide(&key, &flow, &all, NOW).expect("translated");
            if key.proto == SCTP {
                assert_eq!(given, Err(Kept::Sctp));
                continue;
            }
            let given = given.expect("given");
            assert_eq!(
                (given.entry.original, given.entry.reply),
                (entry.original, entry.reply)
            );
            assert_eq!(given.passage, taken.passage);
            let flags = given.entry.tcp.map(|tcp| (tcp.state, tcp.original, tcp.reply));
            let liberal = (TCP_ESTABLISHED, TCP_FLAG_BE_LIBERAL, TCP_FLAG_BE_LIBERAL);
            assert_eq!(flags, (key.proto == TCP).then_some(liberal));
        }
    }

    #[test]
    fn what_is_over_or_nobodys_is_left() {
        let place = place();
        let (whole, _) = cases().swap_remove(0);
        let left = |edit: &dyn Fn(&mut Entry)| {
            let mut entry = whole;
            edit(&mut entry);
            import::decide(&entry, &place).expect_err("left")
        };
        assert_eq!(left(&|entry| entry.zone = 1), Left::Zone);
        assert_eq!(
            left(&|entry| entry.original.dport_be = 81_u16.to_be()),
            Left::NoService
        );
        assert_eq!(
            left(&|entry| {
                entry.tcp = Some(Tcp {
                    state: TCP_TIME_WAIT,
                    ..Tcp::default()
                });
            }),
            Left::Ended
        );
        let gone = |proto| {
            let mut entry = connection(
                key(("10.244.1.5", 1), ("10.96.0.10", 80), proto),
                key(("10.244.1.5", 1), ("10.244.9.9", 8080), proto),
            );
            entry.status |= SEEN_REPLY;
            import::decide(&entry, &place).map(|taken| taken.flow.1.generation)
        };
        assert_eq!(gone(UDP), Err(Left::EndpointGone));
        assert_eq!(
            gone(TCP),
            Ok(6),
            "established TCP goes on, of an older generation"
        );
    }

    #[test]
    fn an_answer_that_no_program_would_see_keeps_its_connection_with_the_kernel() {
        let mut place = place();
        place.watched.clear();
        let found: Vec<_> = cases()
            .iter()
            .map(|(entry, _)| import::decide(entry, &place).err())
            .collect();
        // Each triple: a pod's own address, the node's twice.
        for triple in found.chunks(3) {
            assert_eq!(triple, [None, Some(Left::Unwatched), Some(Left::Unwatched)]);
        }
    }

    #[test]
    fn entries_survive_their_wire_form() {
        for (entry, _) in cases()
            .into_iter()
            .filter(|(entry, _)| !entry.is_translated() || entry.original.proto != SCTP)
        {
            let made = codec::creation(&entry);
            let read = codec::entry(&made).expect("an entry");
            // The tracker works the answer out from the translations: what is sent is the untranslated one.
            assert_eq!(read.original, entry.original);
            assert_eq!(read.reply, entry.original.reverse());
            assert_eq!(
                (read.status, read.timeout, read.tcp),
                (entry.status, entry.timeout, entry.tcp)
            );
            for length in 0..made.len() {
                // Cut anywhere: no entry or a shorter one, never a panic.
                let _ = codec::entry(&made[..length]);
            }
        }
    }
}
