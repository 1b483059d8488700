//! A pool made anew from what is known otherwise: the attachments' records, and the slots that are still readable.

use std::collections::HashSet;

use super::{Header, Range, Slot, Stamp, State, Table, TableError, grant, queue};

/// An attachment and one address of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Hash of its key.
    pub hash: u64,
    /// The address's index in the range.
    pub index: u32,
    /// The epoch it was given with.
    pub epoch: u32,
}

/// Fills an empty table. Owners keep their addresses; of `old` slots (index, slot) the released ones keep their place in
/// the queue, and used ones that nobody owns count as released now. Epochs go on above everything seen and `epoch`.
pub fn rebuild(
    stamp: Stamp,
    range: Range,
    owners: &[Owner],
    old: &[(u32, Slot)],
    epoch: u32,
    now_ms: u64,
    table: &mut impl Table,
) -> Result<Header, TableError> {
    let highest = owners
        .iter()
        .map(|o| o.epoch)
        .chain(old.iter().map(|(_, s)| s.epoch))
        .max()
        .unwrap_or(0);
    let mut header = Header::new(stamp, range, epoch.max(highest));
    for owner in owners.iter().filter(|o| o.index < range.size()) {
        if table.get(owner.index)?.state == State::Fresh {
            grant(&mut header, table, owner.index, owner.hash)?;
            // The dataplane knows this owner by the epoch it was given with.
            let slot = table.get(owner.index)?;
            table.put(
                owner.index,
                Slot {
                    epoch: owner.epoch,
                    ..slot
                },
            )?;
        }
    }
    let mut released: Vec<(u32, Slot)> = Vec::new();
    let mut seen = HashSet::new();
    for (index, slot) in old
        .iter()
        .filter(|(index, slot)| *index < range.size() && slot.state != State::Fresh)
    {
        if table.get(*index)?.state == State::Fresh && seen.insert(*index) {
            // A time in the future is damage; the longest wait for it is one cool-down.
            let at = if slot.state == State::Used {
                now_ms
            } else {
                slot.released_ms.min(now_ms)
            };
            released.push((
                *index,
                Slot {
                    released_ms: at,
                    ..*slot
                },
            ));
        }
    }
    released.sort_by_key(|(_, slot)| slot.released_ms);
    for (index, slot) in released {
        queue(&mut header, table, index, slot)?;
    }
    Ok(header)
}
