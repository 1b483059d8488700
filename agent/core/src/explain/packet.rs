//! The first packet of a connection, made by hand: what a dry run shows to the programs.

use std::net::{IpAddr, SocketAddr};

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// `IPPROTO_SCTP`.
pub const SCTP: u8 = 132;

const SYN: u8 = 0x02;
/// Time to live, hop limit: what Linux sends with.
const TTL: u8 = 64;

/// An Ethernet frame that opens a connection (TCP: SYN, SCTP: INIT), or a datagram without content. `None`: the two addresses are
/// of different families, or the protocol has no ports.
pub fn opening(
    to: [u8; 6],
    from: [u8; 6],
    protocol: u8,
    source: SocketAddr,
    target: SocketAddr,
) -> Option<Vec<u8>> {
    let mut segment = match protocol {
        TCP => tcp(),
        UDP => vec![0, 0, 0, 0, 0, 8, 0, 0],
        SCTP => sctp(),
        _ => return None,
    };
    segment[0..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&target.port().to_be_bytes());
    let pseudo = pseudo_header(source.ip(), target.ip(), protocol, segment.len())?;
    match protocol {
        TCP => {
            let sum = checksum(pseudo, &segment);
            put(&mut segment, 16, sum);
        }
        UDP => {
            // 0 would say that there is none.
            let sum = checksum(pseudo, &segment);
            put(&mut segment, 6, if sum == 0 { 0xffff } else { sum });
        }
        _ => {
            let sum = crc32c(&segment);
            segment[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let header = match (source.ip(), target.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, protocol, 0, 0];
            put(&mut header, 2, (20 + segment.len()) as u16);
            header.extend(source.octets());
            header.extend(target.octets());
            let sum = checksum(0, &header);
            put(&mut header, 10, sum);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, TTL];
            put(&mut header, 4, segment.len() as u16);
            header.extend(source.octets());
            header.extend(target.octets());
            header
        }
        _ => return None,
    };
    let kind: [u8; 2] = if source.is_ipv4() {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    };
    Some([&to[..], &from[..], &kind[..], &header[..], &segment[..]].concat())
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[4..8].copy_from_slice(&1_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
    segment
}

/// Common header and an INIT chunk.
fn sctp() -> Vec<u8> {
    let mut segment = vec![0; 12];
    segment.extend([1, 0, 0, 20]);
    segment.extend(1_u32.to_be_bytes());
    segment.extend(65_536_u32.to_be_bytes());
    segment.extend([0, 1, 0, 1]);
    segment.extend(1_u32.to_be_bytes());
    segment
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of what the transport's checksum covers beyond the transport.
fn pseudo_header(source: IpAddr, target: IpAddr, protocol: u8, length: usize) -> Option<u32> {
    let addresses = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => sum(&source.octets()) + sum(&target.octets()),
        (IpAddr::V6(source), IpAddr::V6(target)) => sum(&source.octets()) + sum(&target.octets()),
        _ => return None,
    };
    Some(addresses + u32::from(protocol) + length as u32)
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from))
        .sum()
}

fn checksum(begin: u32, bytes: &[u8]) -> u16 {
    let mut sum = begin + sum(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, source: &str, target: &str) -> Option<Vec<u8>> {
        let (source, target) = (source.parse().expect("address"), target.parse().expect("address"));
        opening([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], protocol, source, target)
    }

    #[test]
    fn checksums_are_right() {
        let v4 = frame(TCP, "10.0.0.1:1000", "10.0.0.2:80").expect("a frame");
        assert_eq!(checksum(0, &v4[14..34]), 0, "of the header");
        let pseudo = pseudo_header(
            "10.0.0.1".parse().expect("ip"),
            "10.0.0.2".parse().expect("ip"),
            TCP,
            20,
        );
        assert_eq!(
            checksum(pseudo.expect("one family"), &v4[34..]),
            0,
            "of the segment"
        );
        let v6 = frame(UDP, "[fd00::1]:1000", "[fd00::2]:53").expect("a frame");
        let pseudo = pseudo_header(
            "fd00::1".parse().expect("ip"),
            "fd00::2".parse().expect("ip"),
            UDP,
            8,
        );
        assert_eq!(checksum(pseudo.expect("one family"), &v6[54..]), 0);
        assert_eq!((v6.len(), &v6[12..14]), (14 + 40 + 8, &[0x86, 0xdd][..]));
        // The check value of this polynomial.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(
            frame(SCTP, "10.0.0.1:1", "10.0.0.2:2").expect("a frame").len(),
            14 + 20 + 32
        );
    }

    #[test]
    fn what_is_no_packet_is_none() {
        assert_eq!(frame(TCP, "10.0.0.1:1", "[fd00::2]:2"), None, "two families");
        assert_eq!(frame(1, "10.0.0.1:1", "10.0.0.2:2"), None, "no ports");
    }
}
