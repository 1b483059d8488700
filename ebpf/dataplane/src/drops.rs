//! The ring by which the programs tell of packets that they drop or refuse.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use keelson_abi::{DropEvent, FlowKey, MAP_DROP};

use crate::{
    dataplane::Dataplane,
    error::{Error, Result},
    maps,
    paths::Generation,
};

/// The reading end. What is not read in time is lost here, and counted all the same.
pub struct DropRing {
    ring: RingBuf<MapData>,
    generation: Generation,
}

impl Dataplane {
    /// Read what is dropped from now on. One reader at a time gets each event.
    pub fn drops(&self) -> Result<DropRing> {
        let generation = self.generation().clone();
        let data = maps::open(&generation, MAP_DROP)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(|error| {
            Error::system(
                "mapping",
                generation.map(MAP_DROP).display().to_string(),
                std::io::Error::other(error),
            )
        })?;
        Ok(DropRing { ring, generation })
    }
}

impl DropRing {
    /// The oldest event that was not read yet.
    pub fn next_event(&mut self) -> Option<DropEvent> {
        let item = self.ring.next()?;
        Some(event(&item))
    }

    /// The generation whose programs write here.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }
}

impl AsRawFd for DropRing {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for DropRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Field by field: the bytes of a shorter record, of other programs, would be read beyond their end.
fn event(bytes: &[u8]) -> DropEvent {
    let word = |at: usize| {
        let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(found.unwrap_or_default())
    };
    let half = |at: usize| {
        let found = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        u16::from_ne_bytes(found.unwrap_or_default())
    };
    let addr = |at: usize| keelson_abi::Addr([word(at), word(at + 4), word(at + 8), word(at + 12)]);
    DropEvent {
        key: FlowKey {
            src: addr(0),
            dst: addr(16),
            sport_be: half(32),
            dport_be: half(34),
            proto: bytes.get(36).copied().unwrap_or_default(),
            reserved: [0; 3],
        },
        reason: word(40),
        ifindex: word(44),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_short_one_is_zeros() {
        let mut bytes = vec![0; size_of::<DropEvent>()];
        bytes[8..16].copy_from_slice(&[0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        bytes[32..34].copy_from_slice(&4000_u16.to_be_bytes());
        bytes[36] = 6;
        bytes[40..44].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[44..48].copy_from_slice(&3_u32.to_ne_bytes());
        let read = event(&bytes);
        assert_eq!(std::net::IpAddr::from(read.key.src).to_string(), "10.0.0.1");
        assert_eq!(
            (
                u16::from_be(read.key.sport_be),
                read.key.proto,
                read.reason,
                read.ifindex
            ),
            (4000, 6, 7, 3)
        );
        assert_eq!(event(&[1, 2]), DropEvent::default());
    }
}
