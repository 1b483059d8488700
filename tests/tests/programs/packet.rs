//! Packets made by hand, and what is in a packet.

use std::net::Ipv4Addr;

/// Flags of TCP.
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;

/// One's complement sum over bytes.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(start, |sum, word| sum + word)
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> u32 {
    let header = [source.octets(), destination.octets()].concat();
    sum(&header, u32::from(protocol) + length as u32)
}

/// What all packets have.
#[derive(Clone)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset, as in the header.
    pub fragment: u16,
    pub payload: Vec<u8>,
}

impl Packet {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            id: 7,
            fragment: 0,
            payload,
        }
    }

    /// TCP.
    pub fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8, data: &[u8]) -> Self {
        let mut segment = vec![0; 20];
        segment[0..2].copy_from_slice(&from.1.to_be_bytes());
        segment[2..4].copy_from_slice(&to.1.to_be_bytes());
        segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
        segment[12] = 0x50;
        segment[13] = flags;
        segment.extend_from_slice(data);
        let check = !fold(sum(&segment, pseudo(from.0, to.0, 6, segment.len())));
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        Self::new(from.0, to.0, 6, segment)
    }

    /// UDP.
    pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Self {
        let length = 8 + data.len();
        let mut datagram = Vec::new();
        for word in [from.1, to.1, length as u16, 0] {
            datagram.extend_from_slice(&word.to_be_bytes());
        }
        datagram.extend_from_slice(data);
        let check = match !fold(sum(&datagram, pseudo(from.0, to.0, 17, length))) {
            0 => 0xffff,
            check => check,
        };
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        Self::new(from.0, to.0, 17, datagram)
    }

    /// ICMP of a type and code with four bytes and data.
    pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr, head: [u8; 2], rest: [u8; 4], data: &[u8]) -> Self {
        let mut message = vec![head[0], head[1], 0, 0];
        message.extend_from_slice(&rest);
        message.extend_from_slice(data);
        let check = !fold(sum(&message, 0));
        message[2..4].copy_from_slice(&check.to_be_bytes());
        Self::new(source, destination, 1, message)
    }

    /// An echo request (or reply) with an identifier.
    pub fn echo(source: Ipv4Addr, destination: Ipv4Addr, request: bool, id: u16) -> Self {
        let [high, low] = id.to_be_bytes();
        Self::icmp(
            source,
            destination,
            [if request { 8 } else { 0 }, 0],
            [high, low, 0, 1],
            b"abcdefgh",
        )
    }

    /// With another time to live.
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let length = (20 + self.payload.len()) as u16;
        let mut header = vec![0x45, 0];
        for word in [length, self.id, self.fragment] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        header.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        header.extend_from_slice(&self.source.octets());
        header.extend_from_slice(&self.destination.octets());
        let check = !fold(sum(&header, 0));
        header[10..12].copy_from_slice(&check.to_be_bytes());
        header.extend_from_slice(&self.payload);
        header
    }

    /// The frame, from one station to another.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend_from_slice(&self.ip());
        frame
    }

    /// Reads a frame; every checksum in it must be right.
    pub fn parse(frame: &[u8]) -> Self {
        Self::parse_ip(&frame[14..], true)
    }

    /// Reads an IP packet; `whole`: it is not just the beginning of one that an error quotes.
    pub fn parse_ip(ip: &[u8], whole: bool) -> Self {
        assert_eq!(ip[0], 0x45, "plain IPv4 header");
        assert_eq!(fold(sum(&ip[..20], 0)), 0xffff, "checksum of the IP header");
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let packet = Self {
            source: address(12),
            destination: address(16),
            protocol: ip[9],
            ttl: ip[8],
            id: word(4),
            fragment: word(6),
            payload: ip[20..].to_vec(),
        };
        if whole {
            assert_eq!(usize::from(word(2)), ip.len(), "length");
            if packet.fragment & 0x3fff == 0 {
                packet.verify();
            }
        }
        packet
    }

    fn verify(&self) {
        let start = match self.protocol {
            1 => 0,
            17 if self.payload[6..8] == [0, 0] => return,
            // They have none, or one of their own.
            47 | 132 => return,
            protocol => pseudo(self.source, self.destination, protocol, self.payload.len()),
        };
        assert_eq!(
            fold(sum(&self.payload, start)),
            0xffff,
            "checksum of protocol {}",
            self.protocol
        );
    }

    /// Both ends with their ports.
    pub fn ends(&self) -> ((Ipv4Addr, u16), (Ipv4Addr, u16)) {
        let word = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        ((self.source, word(0)), (self.destination, word(2)))
    }

    /// Identifier of an echo.
    pub fn echo_id(&self) -> u16 {
        u16::from_be_bytes([self.payload[4], self.payload[5]])
    }
}
