//! Entries as ctnetlink's attributes. What is not understood is skipped; what is malformed is no entry.

use std::net::IpAddr;

use keelson_abi::{Addr, FlowKey};
use netlink_packet_core::{NLA_F_NESTED, NLA_HEADER_SIZE, NlasIterator};

use super::entry::{Entry, TCP_FLAG_BE_LIBERAL, Tcp};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_NAT_SRC: u16 = 6;
const CTA_TIMEOUT: u16 = 7;
const CTA_NAT_DST: u16 = 13;
const CTA_ZONE: u16 = 18;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
/// Of TCP and of SCTP.
const CTA_PROTOINFO_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;

const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;

/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The message that lists all entries of a family.
pub fn listing(v6: bool) -> Vec<u8> {
    vec![if v6 { AF_INET6 } else { AF_INET }, 0, 0, 0]
}

/// The message that deletes the entry which has this tuple in either direction.
pub fn deletion(tuple: &FlowKey) -> Vec<u8> {
    let mut body = header(tuple);
    put_tuple(&mut body, CTA_TUPLE_ORIG, tuple);
    body
}

/// The message that makes an entry. The tracker works the answer's tuple out by itself, from the translations asked for.
pub fn creation(entry: &Entry) -> Vec<u8> {
    let (original, translated) = (entry.original, entry.translated());
    let mut body = header(&original);
    put_tuple(&mut body, CTA_TUPLE_ORIG, &original);
    put_tuple(&mut body, CTA_TUPLE_REPLY, &original.reverse());
    if (translated.dst, translated.dport_be) != (original.dst, original.dport_be) {
        put_nat(&mut body, CTA_NAT_DST, translated.dst, translated.dport_be);
    }
    if (translated.src, translated.sport_be) != (original.src, original.sport_be) {
        put_nat(&mut body, CTA_NAT_SRC, translated.src, translated.sport_be);
    }
    put(&mut body, CTA_STATUS, &entry.status.to_be_bytes());
    put(&mut body, CTA_TIMEOUT, &entry.timeout.to_be_bytes());
    if let Some(tcp) = entry.tcp {
        put_tcp(&mut body, tcp);
    }
    body
}

/// The message that has the tracker take packets of a TCP connection wherever they lie in the window.
pub fn relaxation(tuple: &FlowKey, state: u8) -> Vec<u8> {
    let mut body = header(tuple);
    put_tuple(&mut body, CTA_TUPLE_ORIG, tuple);
    let tcp = Tcp {
        state,
        original: TCP_FLAG_BE_LIBERAL,
        reply: TCP_FLAG_BE_LIBERAL,
    };
    put_tcp(&mut body, tcp);
    body
}

fn put_tcp(body: &mut Vec<u8>, tcp: Tcp) {
    nest(body, CTA_PROTOINFO, |body| {
        nest(body, CTA_PROTOINFO_TCP, |body| {
            put(body, CTA_PROTOINFO_STATE, &[tcp.state]);
            // Value and mask.
            put(
                body,
                CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
                &[tcp.original, tcp.original],
            );
            put(body, CTA_PROTOINFO_TCP_FLAGS_REPLY, &[tcp.reply, tcp.reply]);
        });
    });
}

fn header(tuple: &FlowKey) -> Vec<u8> {
    listing(!tuple.src.is_v4())
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (NLA_HEADER_SIZE + value.len()) as u16;
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn nest(body: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    inner(&mut value);
    put(body, kind | NLA_F_NESTED, &value);
}

fn put_address(body: &mut Vec<u8>, v4: u16, v6: u16, address: Addr) {
    match IpAddr::from(address) {
        IpAddr::V4(address) => put(body, v4, &address.octets()),
        IpAddr::V6(address) => put(body, v6, &address.octets()),
    }
}

fn put_tuple(body: &mut Vec<u8>, kind: u16, tuple: &FlowKey) {
    nest(body, kind, |body| {
        nest(body, CTA_TUPLE_IP, |body| {
            put_address(body, CTA_IP_V4_SRC, CTA_IP_V6_SRC, tuple.src);
            put_address(body, CTA_IP_V4_DST, CTA_IP_V6_DST, tuple.dst);
        });
        nest(body, CTA_TUPLE_PROTO, |body| {
            put(body, CTA_PROTO_NUM, &[tuple.proto]);
            put(body, CTA_PROTO_SRC_PORT, &tuple.sport_be.to_ne_bytes());
            put(body, CTA_PROTO_DST_PORT, &tuple.dport_be.to_ne_bytes());
        });
    });
}

/// Exactly this address and port.
fn put_nat(body: &mut Vec<u8>, kind: u16, address: Addr, port_be: u16) {
    nest(body, kind, |body| {
        put_address(body, CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP, address);
        put_address(body, CTA_NAT_V4_MAXIP, CTA_NAT_V6_MAXIP, address);
        nest(body, CTA_NAT_PROTO, |body| {
            put(body, CTA_PROTONAT_PORT_MIN, &port_be.to_ne_bytes());
            put(body, CTA_PROTONAT_PORT_MAX, &port_be.to_ne_bytes());
        });
    });
}

/// The entry that a message's body tells of. None: not of a protocol with ports, or malformed.
pub fn entry(body: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(tuple(value, &mut entry.zone)?),
            CTA_TUPLE_REPLY => reply = Some(tuple(value, &mut entry.zone)?),
            CTA_STATUS => entry.status = number(value)?,
            CTA_TIMEOUT => entry.timeout = number(value)?,
            CTA_ZONE => entry.zone = short(value)?,
            CTA_PROTOINFO => state(value, &mut entry),
            _ => {}
        }
    }
    entry.original = original?;
    entry.reply = reply?;
    Some(entry)
}

/// Kinds and values, up to the first that is malformed.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), attribute.value_length());
        let value = attribute
            .into_inner()
            .get(NLA_HEADER_SIZE..NLA_HEADER_SIZE + length)?;
        Some((kind, value))
    })
}

fn tuple(bytes: &[u8], zone: &mut u16) -> Option<FlowKey> {
    let mut key = FlowKey::default();
    let mut ports = 0;
    for (kind, value) in attributes(bytes) {
        match kind {
            CTA_TUPLE_IP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        CTA_IP_V4_SRC | CTA_IP_V6_SRC => key.src = address(value)?,
                        CTA_IP_V4_DST | CTA_IP_V6_DST => key.dst = address(value)?,
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        CTA_PROTO_NUM => key.proto = *value.first()?,
                        CTA_PROTO_SRC_PORT => key.sport_be = port(value, &mut ports)?,
                        CTA_PROTO_DST_PORT => key.dport_be = port(value, &mut ports)?,
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_ZONE => *zone = short(value)?,
            _ => {}
        }
    }
    (ports == 2).then_some(key)
}

fn state(bytes: &[u8], entry: &mut Entry) {
    for (kind, value) in attributes(bytes) {
        let of = |wanted: u16| {
            attributes(value)
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value)
        };
        let first = |wanted: u16| of(wanted).and_then(|value| value.first().copied());
        match kind {
            CTA_PROTOINFO_TCP => {
                entry.tcp = Some(Tcp {
                    state: first(CTA_PROTOINFO_STATE).unwrap_or(0),
                    original: first(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL).unwrap_or(0),
                    reply: first(CTA_PROTOINFO_TCP_FLAGS_REPLY).unwrap_or(0),
                });
            }
            CTA_PROTOINFO_SCTP => entry.sctp = first(CTA_PROTOINFO_STATE),
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

/// As it stands in a packet.
fn port(value: &[u8], seen: &mut u32) -> Option<u16> {
    *seen += 1;
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

fn address(value: &[u8]) -> Option<Addr> {
    let ip = match value.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
    };
    Some(ip.into())
}
