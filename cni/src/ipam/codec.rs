//! The pool's bytes: a header, then one fixed-size slot per address, each with its own checksum.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Range, Slot, State, TableError};

const MAGIC: u32 = u32::from_le_bytes(*b"klp1");
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a slot.
pub const SLOT_LEN: usize = 40;

/// Where and since when a state is true: another boot, or another network namespace, has none of its links.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// /proc/sys/kernel/random/boot_id.
    pub boot: [u8; 16],
    /// SO_NETNS_COOKIE of the node's namespace.
    pub netns: u64,
}

/// What is kept per pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Boot and namespace.
    pub stamp: Stamp,
    /// The pool's addresses.
    pub range: Range,
    /// Addresses below this index have been looked at once.
    pub fresh: u32,
    /// First of the queue: index + 1, 0 = none.
    pub head: u32,
    /// Last of the queue.
    pub tail: u32,
    /// How many are in use.
    pub used: u32,
    /// The last epoch given.
    pub epoch: u32,
    /// A change is going on: who finds this has found a crash.
    pub dirty: bool,
}

impl Header {
    /// An empty pool. Epochs go on from `epoch`.
    #[must_use]
    pub const fn new(stamp: Stamp, range: Range, epoch: u32) -> Self {
        Self {
            stamp,
            range,
            fresh: 0,
            head: 0,
            tail: 0,
            used: 0,
            epoch,
            dirty: false,
        }
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = Writer([0; HEADER_LEN], 0);
        out.u32(MAGIC);
        out.bytes(&self.stamp.boot);
        out.u64(self.stamp.netns);
        out.u32(self.range.net().network().into());
        out.u32(u32::from(self.range.net().prefix_len()));
        for value in [
            self.fresh,
            self.head,
            self.tail,
            self.used,
            self.epoch,
            u32::from(self.dirty),
        ] {
            out.u32(value);
        }
        out.finish()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, TableError> {
        let mut input = Reader::open(bytes, "header")?;
        if input.u32() != MAGIC {
            return Err(TableError::Damaged(
                "the header is not that of an address pool".to_owned(),
            ));
        }
        let stamp = Stamp {
            boot: input.array(),
            netns: input.u64(),
        };
        let (network, length) = (Ipv4Addr::from(input.u32()), input.u32());
        let net = u8::try_from(length)
            .ok()
            .and_then(|length| Ipv4Net::new(network, length).ok());
        let net = net.ok_or_else(|| TableError::Damaged(format!("the header names {network}/{length}")))?;
        Ok(Self {
            stamp,
            range: Range::new(net),
            fresh: input.u32(),
            head: input.u32(),
            tail: input.u32(),
            used: input.u32(),
            epoch: input.u32(),
            dirty: input.u32() != 0,
        })
    }
}

impl Slot {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        if *self == Self::default() {
            return [0; SLOT_LEN];
        }
        let mut out = Writer([0; SLOT_LEN], 0);
        for value in [self.state as u32, self.prev, self.next, self.epoch] {
            out.u32(value);
        }
        out.u64(self.released_ms);
        out.u64(self.owner);
        out.finish()
    }

    /// From bytes; a hole is a fresh slot.
    pub fn decode(bytes: &[u8; SLOT_LEN]) -> Result<Self, TableError> {
        if bytes == &[0; SLOT_LEN] {
            return Ok(Self::default());
        }
        let mut input = Reader::open(bytes, "slot")?;
        let state = match input.u32() {
            0 => State::Fresh,
            1 => State::Used,
            2 => State::Queued,
            other => return Err(TableError::Damaged(format!("a slot is in state {other}"))),
        };
        Ok(Self {
            state,
            prev: input.u32(),
            next: input.u32(),
            epoch: input.u32(),
            released_ms: input.u64(),
            owner: input.u64(),
        })
    }
}

/// The checksum of everything the store writes (CRC-32, reflected, as in zip files).
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
        crc
    })
}

struct Writer<const N: usize>([u8; N], usize);

impl<const N: usize> Writer<N> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    /// The last four bytes are the checksum of all before them.
    fn finish(mut self) -> [u8; N] {
        let crc = crc32(&self.0[..N - 4]);
        self.0[N - 4..].copy_from_slice(&crc.to_le_bytes());
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn open<const N: usize>(bytes: &'a [u8; N], what: &str) -> Result<Self, TableError> {
        let (content, sum) = bytes.split_at(N - 4);
        if crc32(content).to_le_bytes() == sum {
            return Ok(Self(content));
        }
        Err(TableError::Damaged(format!("the checksum of a {what} is wrong")))
    }
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let (now, rest) = self.0.split_at(N);
        out.copy_from_slice(now);
        self.0 = rest;
        out
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let range = Range::new("10.0.0.0/24".parse().unwrap());
        Header {
            fresh: 7,
            head: 3,
            tail: 4,
            used: 5,
            dirty: true,
            ..Header::new(
                Stamp {
                    boot: [9; 16],
                    netns: 77,
                },
                range,
                11,
            )
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Header::decode(&header().encode()).unwrap(), header());
        let slot = Slot {
            state: State::Queued,
            prev: 1,
            next: 2,
            epoch: 3,
            released_ms: u64::MAX,
            owner: 5,
        };
        assert_eq!(Slot::decode(&slot.encode()).unwrap(), slot);
        assert_eq!(Slot::decode(&[0; SLOT_LEN]).unwrap(), Slot::default());
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let good = header().encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        let good = Slot {
            state: State::Used,
            epoch: 3,
            owner: 5,
            ..Slot::default()
        }
        .encode();
        for bit in 0..SLOT_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Slot::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
