//! The address pool's file: opened, checked, changed and repaired under its lock.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::{Deadline, Store, lock};
use crate::{
    error::{Code, Error, Result},
    ipam::{self, HEADER_LEN, Header, Owner, Range, SLOT_LEN, Slot, State, Table, TableError},
};

/// Slots in a file, behind the header.
pub(super) struct FileTable {
    file: File,
}

impl Table for FileTable {
    fn get(&self, index: u32) -> Result<Slot, TableError> {
        let mut bytes = [0; SLOT_LEN];
        let mut filled = 0;
        // Past the end of the file everything is fresh.
        while filled < SLOT_LEN {
            match self
                .file
                .read_at(&mut bytes[filled..], offset(index) + filled as u64)?
            {
                0 => break,
                n => filled += n,
            }
        }
        Slot::decode(&bytes)
    }

    fn put(&mut self, index: u32, slot: Slot) -> Result<(), TableError> {
        Ok(self.file.write_all_at(&slot.encode(), offset(index))?)
    }
}

const fn offset(index: u32) -> u64 {
    HEADER_LEN as u64 + index as u64 * SLOT_LEN as u64
}

impl FileTable {
    fn header(&self) -> Result<Header, TableError> {
        let mut bytes = [0; HEADER_LEN];
        match self.file.read_exact_at(&mut bytes, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(TableError::Damaged(
                "the file is shorter than its header".to_owned(),
            )),
            read => {
                read?;
                Header::decode(&bytes)
            }
        }
    }

    fn put_header(&self, header: &Header) -> Result<(), TableError> {
        Ok(self.file.write_all_at(&header.encode(), 0)?)
    }

    /// All readable slots that were ever used.
    fn readable(&self, range: Range) -> Result<Vec<(u32, Slot)>, TableError> {
        let length = self.file.metadata()?.len();
        let count = length.saturating_sub(HEADER_LEN as u64).div_ceil(SLOT_LEN as u64);
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(range.size());
        let mut slots = Vec::new();
        for index in 0..count {
            match self.get(index) {
                Ok(slot) if slot.state != State::Fresh => slots.push((index, slot)),
                Ok(_) | Err(TableError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(slots)
    }

    /// Indexes in use by an owner: for repairs, since it reads everything.
    pub(super) fn owned_by(&self, hash: u64) -> Result<Vec<u32>, TableError> {
        let range = self.header()?.range;
        let slots = self.readable(range)?.into_iter();
        Ok(slots
            .filter(|(_, s)| s.state == State::Used && s.owner == hash)
            .map(|(index, _)| index)
            .collect())
    }
}

impl Store {
    /// Changes the pool under its lock. A crash in between leaves the header marked, and the next comer rebuilds the
    /// pool from the records. `range` `None`: whatever the pool is of; `Ok(None)` when there is none.
    pub(super) fn change_pool<T>(
        &self,
        range: Option<Range>,
        now_ms: u64,
        deadline: Deadline,
        mut change: impl FnMut(&mut Header, &mut FileTable) -> Result<T, TableError>,
    ) -> Result<Option<T>> {
        self.with_pool(range, now_ms, deadline, |header, table| {
            table.put_header(&Header {
                dirty: true,
                ..*header
            })?;
            let outcome = change(header, table)?;
            table.put_header(header)?;
            Ok(outcome)
        })
    }

    /// Reads the pool under its lock.
    pub(super) fn read_pool<T>(
        &self,
        range: Option<Range>,
        now_ms: u64,
        deadline: Deadline,
        read: impl Fn(&Header, &FileTable) -> Result<T, TableError>,
    ) -> Result<Option<T>> {
        self.with_pool(range, now_ms, deadline, |header, table| read(header, table))
    }

    fn with_pool<T>(
        &self,
        range: Option<Range>,
        now_ms: u64,
        deadline: Deadline,
        mut with: impl FnMut(&mut Header, &mut FileTable) -> Result<T, TableError>,
    ) -> Result<Option<T>> {
        let path = self.dir.join("pool");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(range.is_some())
            .truncate(false)
            .mode(0o600);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::file("open", &path, &e)),
        };
        lock::lock(&file, &path, deadline)?;
        let mut table = FileTable { file };
        let fail = |e: TableError| Error::new(Code::Io, format!("address pool {}: {e}", path.display()));
        let Some(mut header) = self.ready(range, now_ms, &mut table).map_err(fail)? else {
            return Ok(None);
        };
        match with(&mut header, &mut table) {
            Err(TableError::Damaged(_)) => {
                let range = range.unwrap_or(header.range);
                header = self.repair(range, now_ms, &mut table).map_err(fail)?;
                with(&mut header, &mut table).map(Some).map_err(fail)
            }
            outcome => outcome.map(Some).map_err(fail),
        }
    }

    /// A header that can be worked with: of this boot, whole, of the range asked for.
    fn ready(
        &self,
        range: Option<Range>,
        now_ms: u64,
        table: &mut FileTable,
    ) -> Result<Option<Header>, TableError> {
        let found = match table.header() {
            Err(TableError::Io(error)) => return Err(error.into()),
            found => found.ok(),
        };
        let wanted = range.or(found.map(|header| header.range));
        let Some(wanted) = wanted else { return Ok(None) };
        match found {
            Some(header) if header.stamp != self.stamp => self.discard(wanted, now_ms, table).map(Some),
            Some(header) if !header.dirty && header.range == wanted => Ok(Some(header)),
            // New, damaged, left in the middle, or of a network that has been changed.
            _ => self.repair(wanted, now_ms, table).map(Some),
        }
    }

    /// Another boot, or another namespace: its links are gone, and so is what was known of them.
    fn discard(&self, range: Range, now_ms: u64, table: &mut FileTable) -> Result<Header, TableError> {
        let path = |hash| self.attachment_path(hash);
        let hashes = self.hashes().map_err(|e| io::Error::other(e.msg))?;
        for hash in hashes.into_iter().filter(|hash| self.record_of(*hash).is_none()) {
            if lock_is_free(&path(hash)) {
                // Whoever holds it has begun after the reboot.
                let _ = fs::remove_file(path(hash));
            }
        }
        table.file.set_len(0)?;
        self.repair(range, now_ms, table)
    }

    /// Writes the pool anew from records, the machine's own state and what is readable of the old.
    fn repair(&self, range: Range, now_ms: u64, table: &mut FileTable) -> Result<Header, TableError> {
        // Slots of another network mean other addresses; an unreadable header is taken for one of the same.
        let same = table.header().map_or(true, |header| header.range == range);
        let old = if same { table.readable(range)? } else { Vec::new() };
        let records = self.records().map_err(|e| io::Error::other(e.msg))?;
        let hashes = self.hashes().map_err(|e| io::Error::other(e.msg))?;
        let mut owners: Vec<Owner> = records
            .iter()
            .filter_map(|r| {
                Some(Owner {
                    hash: r.key.hash(),
                    index: range.index(r.ipv4()?)?,
                    epoch: r.epoch,
                })
            })
            .collect();
        // Attachments whose record is damaged or lost: links and routes tell, else the slot of one that has a file.
        let lost = |hash: &u64| !records.iter().any(|r| r.key.hash() == *hash);
        let shown = (self.evidence)()
            .into_iter()
            .filter_map(|(hash, ip)| Some((hash, range.index(ip)?)));
        let used = old
            .iter()
            .filter(|(_, s)| s.state == State::Used && hashes.contains(&s.owner));
        let claims = shown.chain(used.map(|(index, slot)| (slot.owner, *index)));
        for (hash, index) in claims.filter(|(hash, _)| lost(hash)) {
            let epoch = old
                .iter()
                .find(|(i, _)| *i == index)
                .map_or(0, |(_, slot)| slot.epoch);
            owners.push(Owner { hash, index, epoch });
        }
        table.file.set_len(0)?;
        // Never again an epoch of before, even when nothing of the old is readable.
        let epoch = u32::try_from(now_ms / 100 % u64::from(u32::MAX)).unwrap_or(0);
        let header = ipam::rebuild(self.stamp, range, &owners, &old, epoch, now_ms, table)?;
        table.put_header(&header)?;
        Ok(header)
    }
}

fn lock_is_free(path: &Path) -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .is_ok_and(|file| lock::try_lock(&file, path).unwrap_or(false))
}
