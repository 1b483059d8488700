//! Flows written from here, not by a packet: both legs and a slot of the ring, so that ageing finds them like all others.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use keelson_abi::{FLOW_RING, FLOW_STUB, Flow, FlowKey, MAP_FLOW, MAP_FLOW_CURSOR, MAP_FLOW_RING, RingSlot};
use nix::time::{ClockId, clock_gettime};

use crate::{
    error::{Error, Result},
    maps::{self, Table, Written},
    paths::Generation,
};

/// Writes flows.
///
/// Slots are taken from behind the cursor, where the programs come last: they claim slots by compare-and-swap, and from here there is
/// none. Two that meet all the same leave the programs' flow without a slot, which ages only when its tuple is wanted.
pub struct FlowWriter {
    flows: Table<FlowKey, Flow>,
    ring: Array<MapData, RingSlot>,
    /// Slots in use, slot 0 included.
    slots: u32,
    /// The slot that was looked at last.
    at: u32,
    /// Distinguishes this writer's claims.
    claims: u32,
}

impl FlowWriter {
    /// Open the maps of a generation.
    pub fn open(generation: &Generation) -> Result<Self> {
        let cursor: Array<MapData, u64> = array(generation, MAP_FLOW_CURSOR)?;
        let read = |index| {
            cursor
                .get(&index, 0)
                .map_err(|error| failed(MAP_FLOW_CURSOR, &error))
        };
        let (cursor, size) = (read(0)?, read(1)?);
        let ring: Array<MapData, RingSlot> = array(generation, MAP_FLOW_RING)?;
        let slots = u32::try_from(size)
            .ok()
            .filter(|size| *size > 1)
            .unwrap_or(FLOW_RING)
            .min(ring.len());
        Ok(Self {
            flows: Table::open(generation, MAP_FLOW)?,
            ring,
            slots,
            at: 1 + (cursor % u64::from(slots - 1)) as u32,
            claims: cursor as u32,
        })
    }

    /// Write a flow unless somebody has one of its tuples. Slot and claim are chosen here.
    pub fn put(&mut self, key: &FlowKey, flow: &Flow) -> Result<Written> {
        let Some(slot) = self.free_slot()? else {
            return Ok(Written::Full);
        };
        // Odd, as the programs' claims are: never 0, which is free.
        self.claims = self.claims.wrapping_sub(2) | 1;
        let flow = Flow {
            slot,
            claim: self.claims,
            ..*flow
        };
        let stub = Flow {
            other: *key,
            last_seen: flow.last_seen,
            flags: FLOW_STUB,
            slot,
            claim: flow.claim,
            ..Flow::default()
        };
        self.set_slot(
            slot,
            &RingSlot {
                key: *key,
                claim: u64::from(now()?) << 32 | u64::from(flow.claim),
            },
        )?;
        let answers = flow.other.reverse();
        let written = self.put_both(key, &flow, &answers, &stub);
        if !matches!(written, Ok(Written::Yes)) {
            self.set_slot(slot, &RingSlot::default())?;
        }
        written
    }

    fn put_both(&mut self, key: &FlowKey, flow: &Flow, answers: &FlowKey, stub: &Flow) -> Result<Written> {
        let written = self.flows.put_new(answers, stub)?;
        if written != Written::Yes {
            return Ok(written);
        }
        let written = self.flows.put_new(key, flow);
        if !matches!(written, Ok(Written::Yes)) {
            self.flows.remove(answers)?;
        }
        written
    }

    /// Give a flow that is there other properties; its place in the ring stays.
    pub fn rewrite(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        let Some(now) = self.flows.get(key)? else {
            return Ok(());
        };
        let flow = Flow {
            slot: now.slot,
            claim: now.claim,
            ..*flow
        };
        self.flows.put(key, &flow)
    }

    /// Take both legs of a flow away.
    pub fn remove(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        self.flows.remove(&flow.other.reverse())?;
        self.flows.remove(key)?;
        let slot = self.slot(flow.slot)?;
        if slot.key == *key && slot.claim as u32 == flow.claim {
            self.set_slot(flow.slot, &RingSlot::default())?;
        }
        Ok(())
    }

    /// Walks backwards over the ring, once around at most.
    fn free_slot(&mut self) -> Result<Option<u32>> {
        for _ in 1..self.slots {
            self.at = if self.at <= 1 { self.slots - 1 } else { self.at - 1 };
            if self.slot(self.at)?.claim == 0 {
                return Ok(Some(self.at));
            }
        }
        Ok(None)
    }

    fn slot(&self, index: u32) -> Result<RingSlot> {
        self.ring
            .get(&index, 0)
            .map_err(|error| failed(MAP_FLOW_RING, &error))
    }

    fn set_slot(&mut self, index: u32, slot: &RingSlot) -> Result<()> {
        self.ring
            .set(index, slot, 0)
            .map_err(|error| failed(MAP_FLOW_RING, &error))
    }
}

fn array<V: aya::Pod>(generation: &Generation, name: &'static str) -> Result<Array<MapData, V>> {
    Array::try_from(Map::Array(maps::open(generation, name)?)).map_err(|error| failed(name, &error))
}

fn failed(name: &str, error: &aya::maps::MapError) -> Error {
    Error::system(
        "using the map",
        Path::new(name).display().to_string(),
        std::io::Error::other(error.to_string()),
    )
}

/// The programs' clock: coarse monotonic seconds.
pub fn now() -> Result<u32> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|errno| Error::system("reading", "the monotonic clock", errno.into()))?;
    Ok(time.tv_sec() as u32)
}
