//! Which address an attachment gets: pure decisions over a table of slots.
//!
//! An address is never used, in use, or queued. Released addresses join the end of a queue and are given again from
//! its head, not before [`COOL_DOWN_MS`] have passed: whoever still talks to the old owner must not reach the new one.
//! The cool-down is honoured even when nothing else is free; the error then says when to try again, and every runtime
//! does. Every step touches a handful of slots, whatever the size of the pool.

mod codec;
mod range;
mod rebuild;

pub use codec::{HEADER_LEN, Header, SLOT_LEN, Stamp, crc32 as codec_crc32};
pub use range::Range;
pub use rebuild::{Owner, rebuild};

/// How long a released address stays out of use, milliseconds.
pub const COOL_DOWN_MS: u64 = 30_000;

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum State {
    /// Never given since the pool was made.
    #[default]
    Fresh = 0,
    /// An attachment has it.
    Used = 1,
    /// Released, in the queue.
    Queued = 2,
}

/// What is kept per address. All zero is a fresh one, so that a hole in a file reads as fresh addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Where it is.
    pub state: State,
    /// Neighbours in the queue: index + 1, 0 = none.
    pub prev: u32,
    /// See `prev`.
    pub next: u32,
    /// Of the last time it was given.
    pub epoch: u32,
    /// When it was released, milliseconds of the boot clock.
    pub released_ms: u64,
    /// Hash of the owner's key, or of the last owner's.
    pub owner: u64,
}

/// Why a table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The bytes are not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The file could not be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The slots, wherever they are kept.
pub trait Table {
    /// One slot.
    fn get(&self, index: u32) -> Result<Slot, TableError>;
    /// Replaces one slot.
    fn put(&mut self, index: u32, slot: Slot) -> Result<(), TableError>;
}

/// Why no address was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// All are in use.
    Exhausted,
    /// The rest is in cool-down.
    Cooling {
        /// Until the first may be given again.
        ready_in_ms: u64,
    },
    /// The address asked for belongs to another attachment.
    Taken,
    /// The address asked for is none that a pod may have.
    OutOfRange,
}

/// What a pool can say of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Addresses in all.
    pub size: u32,
    /// In use.
    pub used: u32,
    /// In cool-down.
    pub cooling: u32,
    /// Free to be given.
    pub free: u32,
}

/// A given address: its index, and the epoch that tells this owner from earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Position in the range.
    pub index: u32,
    /// Number of this giving.
    pub epoch: u32,
}

/// Gives `owner` an address: a fresh one while there are, else the one that was released first.
pub fn allocate(
    header: &mut Header,
    table: &mut impl Table,
    owner: u64,
    now_ms: u64,
) -> Result<Result<Grant, Refusal>, TableError> {
    let size = header.range.size();
    while header.fresh < size {
        let index = header.fresh;
        header.fresh += 1;
        // One that was asked for by name may lie ahead of the mark.
        if table.get(index)?.state == State::Fresh {
            return grant(header, table, index, owner).map(Ok);
        }
    }
    let Some(index) = header.head.checked_sub(1) else {
        return Ok(Err(Refusal::Exhausted));
    };
    let ready = table.get(index)?.released_ms.saturating_add(COOL_DOWN_MS);
    if ready > now_ms {
        return Ok(Err(Refusal::Cooling {
            ready_in_ms: ready - now_ms,
        }));
    }
    unlink(header, table, index)?;
    grant(header, table, index, owner).map(Ok)
}

/// Gives `owner` this address, again if it has it. Whoever asks for it by name means it: its cool-down does not count.
pub fn allocate_exact(
    header: &mut Header,
    table: &mut impl Table,
    index: u32,
    owner: u64,
) -> Result<Result<Grant, Refusal>, TableError> {
    if index >= header.range.size() {
        return Ok(Err(Refusal::OutOfRange));
    }
    let slot = table.get(index)?;
    match slot.state {
        State::Used if slot.owner == owner => {
            return Ok(Ok(Grant {
                index,
                epoch: slot.epoch,
            }));
        }
        State::Used => return Ok(Err(Refusal::Taken)),
        State::Queued => unlink(header, table, index)?,
        State::Fresh => {}
    }
    grant(header, table, index, owner).map(Ok)
}

/// Takes an address back, if `owner` has it. Says whether it had.
pub fn release(
    header: &mut Header,
    table: &mut impl Table,
    index: u32,
    owner: u64,
    now_ms: u64,
) -> Result<bool, TableError> {
    if index >= header.range.size() {
        return Ok(false);
    }
    let slot = table.get(index)?;
    if slot.state != State::Used || slot.owner != owner {
        return Ok(false);
    }
    header.used = header.used.saturating_sub(1);
    queue(
        header,
        table,
        index,
        Slot {
            released_ms: now_ms,
            ..slot
        },
    )?;
    Ok(true)
}

/// Counts. The queue is in order of release, so the cooling ones are its tail.
pub fn usage(header: &Header, table: &impl Table, now_ms: u64) -> Result<Usage, TableError> {
    let mut cooling = 0;
    let mut at = header.tail;
    while let Some(index) = at.checked_sub(1) {
        let slot = table.get(index)?;
        if slot.released_ms.saturating_add(COOL_DOWN_MS) <= now_ms {
            break;
        }
        cooling += 1;
        at = slot.prev;
        if cooling > header.range.size() {
            return Err(TableError::Damaged(
                "the queue of released addresses is a circle".to_owned(),
            ));
        }
    }
    let size = header.range.size();
    Ok(Usage {
        size,
        used: header.used,
        cooling,
        free: size.saturating_sub(header.used).saturating_sub(cooling),
    })
}

fn grant(header: &mut Header, table: &mut impl Table, index: u32, owner: u64) -> Result<Grant, TableError> {
    header.epoch = header.epoch.wrapping_add(1).max(1);
    header.used += 1;
    let epoch = header.epoch;
    table.put(
        index,
        Slot {
            state: State::Used,
            epoch,
            owner,
            ..Slot::default()
        },
    )?;
    Ok(Grant { index, epoch })
}

/// Appends to the queue.
fn queue(header: &mut Header, table: &mut impl Table, index: u32, slot: Slot) -> Result<(), TableError> {
    let me = index + 1;
    match header.tail.checked_sub(1) {
        None => header.head = me,
        Some(last) => {
            let before = table.get(last)?;
            table.put(last, Slot { next: me, ..before })?;
        }
    }
    table.put(
        index,
        Slot {
            state: State::Queued,
            prev: header.tail,
            next: 0,
            ..slot
        },
    )?;
    header.tail = me;
    Ok(())
}

/// Takes out of the queue, from wherever it stands.
fn unlink(header: &mut Header, table: &mut impl Table, index: u32) -> Result<(), TableError> {
    let slot = table.get(index)?;
    if slot.state != State::Queued {
        return Err(TableError::Damaged(format!(
            "slot {index} is in the queue, and in state {:?}",
            slot.state
        )));
    }
    match slot.prev.checked_sub(1) {
        None => header.head = slot.next,
        Some(at) => {
            let before = table.get(at)?;
            table.put(
                at,
                Slot {
                    next: slot.next,
                    ..before
                },
            )?;
        }
    }
    match slot.next.checked_sub(1) {
        None => header.tail = slot.prev,
        Some(at) => {
            let after = table.get(at)?;
            table.put(
                at,
                Slot {
                    prev: slot.prev,
                    ..after
                },
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "ipam/tests.rs"]
mod tests;
