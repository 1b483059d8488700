//! Packets by hand: Ethernet, IPv4, TCP, UDP and ICMP with right checksums, for programs that are run on one packet.

use std::net::{Ipv4Addr, SocketAddrV4};

/// A hardware address.
pub type Mac = [u8; 6];

/// Length of an Ethernet header.
pub const ETH: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;

/// TCP flags.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Refuses or breaks a connection.
    pub const RST: u8 = 0x04;
    /// Do not wait for more.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// What differs between packets below the transport.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Destination hardware address.
    pub to: Mac,
    /// Source hardware address.
    pub from: Mac,
    /// Hops left.
    pub ttl: u8,
    /// Identification of fragments.
    pub id: u16,
    /// "Don't fragment" (0x4000), "more fragments" (0x2000) and the offset in units of eight bytes.
    pub fragment: u16,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            ttl: 64,
            id: 1,
            fragment: 0x4000,
        }
    }
}

impl Frame {
    /// A TCP segment with the sequence number 1000.
    pub fn tcp(&self, source: SocketAddrV4, target: SocketAddrV4, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[0..2].copy_from_slice(&source.port().to_be_bytes());
        segment[2..4].copy_from_slice(&target.port().to_be_bytes());
        segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
        segment[12] = 5 << 4;
        segment[13] = flags;
        segment[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
        segment.extend_from_slice(data);
        let sum = transport_checksum(*source.ip(), *target.ip(), 6, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.ipv4(*source.ip(), *target.ip(), 6, &segment)
    }

    /// A UDP datagram.
    pub fn udp(&self, source: SocketAddrV4, target: SocketAddrV4, data: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; 8];
        datagram[0..2].copy_from_slice(&source.port().to_be_bytes());
        datagram[2..4].copy_from_slice(&target.port().to_be_bytes());
        datagram[4..6].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
        datagram.extend_from_slice(data);
        // 0 means "no checksum", so a sum of 0 is sent as its other form.
        let sum = match transport_checksum(*source.ip(), *target.ip(), 17, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        self.ipv4(*source.ip(), *target.ip(), 17, &datagram)
    }

    /// An ICMP echo request.
    pub fn ping(&self, source: Ipv4Addr, target: Ipv4Addr, id: u16, sequence: u16) -> Vec<u8> {
        let mut rest = [0; 4];
        rest[0..2].copy_from_slice(&id.to_be_bytes());
        rest[2..4].copy_from_slice(&sequence.to_be_bytes());
        self.icmp(source, target, (8, 0), rest, b"keelson")
    }

    /// An ICMP error about a packet (a frame of ours): its IP header and the eight bytes after it come back.
    pub fn icmp_error(
        &self,
        source: Ipv4Addr,
        target: Ipv4Addr,
        kind: (u8, u8),
        mtu: u16,
        about: &[u8],
    ) -> Vec<u8> {
        let mut rest = [0; 4];
        rest[2..4].copy_from_slice(&mtu.to_be_bytes());
        let end = about.len().min(ETH + IPV4 + 8);
        self.icmp(
            source,
            target,
            kind,
            rest,
            about.get(ETH..end).unwrap_or_default(),
        )
    }

    fn icmp(
        &self,
        source: Ipv4Addr,
        target: Ipv4Addr,
        kind: (u8, u8),
        rest: [u8; 4],
        data: &[u8],
    ) -> Vec<u8> {
        let mut message = vec![kind.0, kind.1, 0, 0];
        message.extend_from_slice(&rest);
        message.extend_from_slice(data);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.ipv4(source, target, 1, &message)
    }

    /// An IPv4 packet of any protocol.
    pub fn ipv4(&self, source: Ipv4Addr, target: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.ethernet(0x0800);
        let mut header = [0; IPV4];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((IPV4 + payload.len()) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&self.id.to_be_bytes());
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[8] = self.ttl;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&target.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&header);
        packet.extend_from_slice(payload);
        packet
    }

    fn ethernet(&self, protocol: u16) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend_from_slice(&self.to);
        frame.extend_from_slice(&self.from);
        frame.extend_from_slice(&protocol.to_be_bytes());
        frame
    }
}

/// What a test wants to know of a TCP or UDP packet over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Source address and port.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub target: SocketAddrV4,
    /// 6 or 17.
    pub protocol: u8,
    /// Hops left.
    pub ttl: u8,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
}

/// Read a frame back. `Err` says what is wrong with it, bad checksums included.
pub fn parse(frame: &[u8]) -> Result<Parsed, String> {
    let ip = frame.get(ETH..ETH + IPV4).ok_or("shorter than its headers")?;
    if frame[12..14] != [0x08, 0x00] || ip[0] != 0x45 {
        return Err("not IPv4 without options".into());
    }
    if checksum(ip) != 0 {
        return Err("bad IPv4 checksum".into());
    }
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let payload = frame
        .get(ETH + IPV4..ETH + length)
        .ok_or("shorter than its length says")?;
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    let (source, target, protocol) = (address(12), address(16), ip[9]);
    let (least, no_sum) = match protocol {
        6 => (20, false),
        17 => (8, payload.get(6..8) == Some(&[0, 0])),
        other => return Err(format!("protocol {other} is neither TCP nor UDP")),
    };
    if payload.len() < least {
        return Err("shorter than its transport header".into());
    }
    if !no_sum && transport_checksum(source, target, protocol, payload) != 0 {
        return Err("bad transport checksum".into());
    }
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    Ok(Parsed {
        source: SocketAddrV4::new(source, port(0)),
        target: SocketAddrV4::new(target, port(2)),
        protocol,
        ttl: ip[8],
        flags: if protocol == 6 { payload[13] } else { 0 },
    })
}

/// The Internet checksum; over bytes that contain a right one it is 0.
pub fn checksum(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

/// The checksum of TCP and UDP, which covers the addresses as well.
pub fn transport_checksum(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, segment: &[u8]) -> u16 {
    let addresses = sum(&source.octets()) + sum(&target.octets());
    fold(addresses + u32::from(protocol) + segment.len() as u32 + sum(segment))
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 2), 40_000);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);

    #[test]
    fn a_header_of_the_standard_has_the_checksum_of_the_standard() {
        // RFC 1071, section 3: the sum of these is ddf2.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[test]
    fn what_is_made_is_read_back() {
        let frame = Frame {
            ttl: 7,
            ..Frame::default()
        };
        let tcp = parse(&frame.tcp(A, B, tcp::SYN, b"odd")).expect("TCP");
        assert_eq!((tcp.source, tcp.target, tcp.protocol), (A, B, 6));
        assert_eq!((tcp.ttl, tcp.flags), (7, tcp::SYN));
        let udp = parse(&frame.udp(A, B, b"even")).expect("UDP");
        assert_eq!((udp.source, udp.target, udp.protocol), (A, B, 17));
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut packet = Frame::default().tcp(A, B, tcp::ACK, b"data");
        *packet.last_mut().expect("a byte") ^= 1;
        assert_eq!(parse(&packet), Err("bad transport checksum".into()));
        let mut packet = Frame::default().udp(A, B, b"data");
        packet[ETH + 8] -= 1;
        assert_eq!(parse(&packet), Err("bad IPv4 checksum".into()));
        assert!(parse(&packet[..20]).is_err());
    }

    #[test]
    fn an_error_carries_the_beginning_of_what_it_is_about() {
        let about = Frame::default().udp(A, B, b"a longer datagram");
        let error = Frame::default().icmp_error(*B.ip(), *A.ip(), (3, 3), 0, &about);
        assert_eq!(error[ETH + 9], 1);
        assert_eq!(error[ETH + IPV4 + 8..], about[ETH..ETH + IPV4 + 8]);
        assert_eq!(checksum(&error[ETH + IPV4..]), 0);
    }
}
