//! First packets of connections in both families and all three protocols, and what a program made of them: every checksum is
//! computed here, by nothing but its standard.

use std::net::{IpAddr, SocketAddr};

use keelson_tests::oracle::Protocol;

/// Length of an Ethernet header.
const ETH: usize = 14;
/// TCP's first flag.
const SYN: u8 = 2;

/// A frame that begins a connection: a SYN, a datagram, or an INIT.
pub fn first(source: SocketAddr, target: SocketAddr, protocol: Protocol, to: [u8; 6]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(target.port().to_be_bytes());
    match protocol {
        Protocol::Tcp => {
            segment.extend(1000_u32.to_be_bytes());
            segment.extend([0, 0, 0, 0, 5 << 4, SYN, 0xfa, 0xf0, 0, 0, 0, 0]);
            let sum = transport_sum(source.ip(), target.ip(), 6, &segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        Protocol::Udp => {
            let data = b"who is there?";
            segment.extend((8 + data.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
            segment.extend(data);
            let sum = match transport_sum(source.ip(), target.ip(), 17, &segment) {
                0 => 0xffff,
                sum => sum,
            };
            segment[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        Protocol::Sctp => {
            // Verification tag 0, then an INIT of the least length.
            segment.extend([0; 8]);
            segment.extend([1, 0, 0, 20]);
            segment.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7]);
            let sum = crc32c(&segment);
            segment[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let mut frame = Vec::from(to);
    frame.extend([2, 0, 0, 0, 0, 2]);
    match (source.ip(), target.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((20 + segment.len() as u16).to_be_bytes());
            header.extend([0, 7, 0x40, 0, 64, protocol.number(), 0, 0]);
            header.extend(source.octets());
            header.extend(target.octets());
            let sum = !fold(sum(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (source, target) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((segment.len() as u16).to_be_bytes());
            frame.extend([protocol.number(), 64]);
            frame.extend(octets(source));
            frame.extend(octets(target));
        }
    }
    frame.extend(segment);
    frame
}

/// Both ends of a frame, its protocol and, of TCP, whether it resets; every checksum in it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub protocol: u8,
    pub hops: u8,
}

/// Read a frame. What is wrong with it is the error.
pub fn read(frame: &[u8]) -> Result<Seen, String> {
    let kind = frame.get(12..ETH).ok_or("no frame")?;
    let (source, target, protocol, hops, rest) = match (kind, frame.get(ETH).copied()) {
        ([0x08, 0x00], Some(0x45)) => four(&frame[ETH..])?,
        ([0x86, 0xdd], Some(first)) if first >> 4 == 6 => six(&frame[ETH..])?,
        _ => return Err(format!("neither IPv4 without options nor IPv6: {frame:02x?}")),
    };
    if rest.len() < 8 {
        return Err("no transport header".into());
    }
    let right = match protocol {
        6 | 58 => transport_sum(source, target, protocol, rest) == 0,
        17 => rest[6..8] == [0, 0] || transport_sum(source, target, protocol, rest) == 0,
        1 => fold(sum(rest)) == 0xffff,
        132 => {
            let mut blank = rest.to_vec();
            let claimed = [blank[8], blank[9], blank[10], blank[11]];
            blank[8..12].fill(0);
            crc32c(&blank).to_le_bytes() == claimed
        }
        other => return Err(format!("protocol {other}")),
    };
    if !right {
        return Err(format!("wrong checksum of protocol {protocol}: {frame:02x?}"));
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    Ok(Seen {
        source: SocketAddr::new(source, port(0)),
        target: SocketAddr::new(target, port(2)),
        protocol,
        hops,
    })
}

type Parts<'a> = (IpAddr, IpAddr, u8, u8, &'a [u8]);

fn four(packet: &[u8]) -> Result<Parts<'_>, String> {
    let header = packet.get(..20).ok_or("no IPv4 header")?;
    if fold(sum(header)) != 0xffff {
        return Err("wrong checksum of the IPv4 header".into());
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let rest = packet.get(20..length).ok_or("shorter than its length says")?;
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok((address(12), address(16), header[9], header[8], rest))
}

fn six(packet: &[u8]) -> Result<Parts<'_>, String> {
    let header = packet.get(..40).ok_or("no IPv6 header")?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let rest = packet
        .get(40..40 + length)
        .ok_or("shorter than its length says")?;
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header[at..at + 16]);
        IpAddr::from(bytes)
    };
    Ok((address(8), address(24), header[6], header[7], rest))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum that belongs into a segment whose field is zero; over one with a right field it is 0.
fn transport_sum(source: IpAddr, target: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let addresses = sum(&octets(source)) + sum(&octets(target));
    !fold(addresses + u32::from(protocol) + segment.len() as u32 + sum(segment))
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Bit by bit, as the polynomial says.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let start = crc ^ u32::from(*byte);
        (0..8).fold(start, |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[test]
fn checksums_are_those_of_the_standards() {
    // RFC 1071, section 3, and RFC 3720, appendix B.4.
    assert_eq!(
        fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])),
        0xddf2
    );
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    let ascending: Vec<u8> = (0..32).collect();
    assert_eq!(crc32c(&ascending), 0x46dd_794e);
}

#[test]
fn what_is_made_is_read_back_and_a_changed_byte_is_noticed() {
    for (source, target) in [
        ("10.244.1.11:4000", "10.96.0.10:80"),
        ("[fd00:a:f4:1::b]:4000", "[fd00:a:60::a]:80"),
    ] {
        let (source, target) = (source.parse().expect("address"), target.parse().expect("address"));
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let mut frame = first(source, target, protocol, [2, 0, 0, 0, 0, 1]);
            let seen = read(&frame).expect("a right frame");
            assert_eq!(
                (seen.source, seen.target, seen.protocol),
                (source, target, protocol.number())
            );
            *frame.last_mut().expect("a byte") ^= 1;
            assert!(read(&frame).is_err(), "{protocol:?}");
        }
    }
}
