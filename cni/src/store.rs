//! What this node has given to whom: one folder per network below `<run>/cni`, made for tmpfs.
//!
//! ```text
//! <run>/cni/<network>/pool               the addresses (see `ipam`), locked only while they change
//! <run>/cni/<network>/attachments/<hash> one record per attachment, locked for the whole of ADD and DEL
//! ```
//!
//! The records are the truth, the pool is their index. A record that is locked is in flight; one that is not locked
//! and not committed is what a crash left, and may be repaired at once. Everything carries a checksum and the stamp of
//! boot and namespace: what is damaged is made anew from what remains, what is from another boot is dropped.

mod attachment;
mod lock;
mod pool;
mod record;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

pub use attachment::Attachment;
pub use lock::Deadline;
pub use record::{Phase, Record};

use crate::{
    error::{Code, Error, Result},
    ipam::{self, Grant, Range, Refusal, Stamp, Usage},
    key::Key,
};

/// Who holds which address, as the machine itself shows it (links and routes): the last resort of a repair.
pub type Evidence = Box<dyn Fn() -> Vec<(u64, Ipv4Addr)> + Send + Sync>;

/// One network's folder.
pub struct Store {
    dir: PathBuf,
    network: String,
    stamp: Stamp,
    evidence: Evidence,
}

impl Store {
    /// Opens the folder of `network`, and makes it if need be. `evidence` is asked only when something is damaged.
    pub fn open(run: &Path, network: &str, stamp: Stamp, evidence: Evidence) -> Result<Self> {
        let dir = run.join("cni").join(network);
        let attachments = dir.join("attachments");
        // One call on the usual path: the folder is there.
        if !attachments.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&attachments)
                .map_err(|e| Error::file("create the folder", &attachments, &e))?;
        }
        Ok(Self {
            dir,
            network: network.to_owned(),
            stamp,
            evidence,
        })
    }

    /// The networks that have a folder.
    pub fn networks(run: &Path) -> Result<Vec<String>> {
        let dir = run.join("cni");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("list", &dir, &e)),
        };
        let folders = entries
            .flatten()
            .filter(|e| e.path().join("attachments").is_dir());
        Ok(folders.filter_map(|e| e.file_name().into_string().ok()).collect())
    }

    /// The network's name.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Boot and namespace this store is opened for.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Locks an attachment's record for as long as the value lives; a new, empty one if there is none.
    pub fn lock(&self, key: &Key, deadline: Deadline) -> Result<Attachment> {
        let attachment = Attachment::lock(&self.attachment_path(key.hash()), deadline)?;
        attachment.read(self.stamp, Some(key))
    }

    /// Locks the record with this hash, made new if there is none; `None` where somebody else holds it.
    pub fn claim(&self, hash: u64) -> Result<Option<Attachment>> {
        match Attachment::try_lock(&self.attachment_path(hash), true)? {
            attachment::Try::Locked(attachment) => attachment.read(self.stamp, None).map(Some),
            attachment::Try::Busy | attachment::Try::Gone => Ok(None),
        }
    }

    /// An attachment's record as it is now, without a lock: for CHECK, which must not wait.
    pub fn peek(&self, key: &Key) -> Result<Option<Record>> {
        let path = self.attachment_path(key.hash());
        match fs::read(&path) {
            Ok(bytes) => Ok(Record::decode(&bytes)
                .ok()
                .filter(|r| r.stamp == self.stamp && r.key == *key)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("read", &path, &e)),
        }
    }

    /// Every attachment that has a file: its hash, and `None` where somebody holds the lock.
    pub fn attachments(&self) -> Result<Vec<(u64, Option<Attachment>)>> {
        let mut all = Vec::new();
        for hash in self.hashes()? {
            match Attachment::try_lock(&self.attachment_path(hash), false)? {
                attachment::Try::Locked(attachment) => {
                    all.push((hash, Some(attachment.read(self.stamp, None)?)))
                }
                attachment::Try::Busy => all.push((hash, None)),
                attachment::Try::Gone => {}
            }
        }
        Ok(all)
    }

    /// Every readable record, without locks.
    pub fn records(&self) -> Result<Vec<Record>> {
        let records = self.hashes()?.into_iter().filter_map(|hash| self.record_of(hash));
        Ok(records.collect())
    }

    /// Gives the attachment an address and writes both down; the one it has, if it has one.
    pub fn reserve(
        &self,
        attachment: &mut Attachment,
        mut record: Record,
        ask: &Ask<'_>,
        deadline: Deadline,
    ) -> Result<Record> {
        let hash = record.key.hash();
        let earlier = attachment.record().and_then(Record::ipv4);
        // A damaged record has lost its address; the machine may still know it.
        let earlier = earlier.or_else(|| attachment.damaged().then(|| self.evident(hash)).flatten());
        let wanted = ask
            .address
            .or(earlier.filter(|ip| ask.range.index(*ip).is_some()));
        let outcome = self.change_pool(Some(ask.range), ask.now_ms, deadline, |header, table| {
            if let Some(old) = earlier.filter(|old| Some(*old) != wanted) {
                release_one(header, table, old, hash, ask.now_ms)?;
            }
            reserve_own(header, table, ask.reserved)?;
            let granted = match wanted.map(|ip| ask.range.index(ip)) {
                Some(None) => Err(Refusal::OutOfRange),
                Some(Some(index)) => ipam::allocate_exact(header, table, index, hash)?,
                None => ipam::allocate(header, table, hash, ask.now_ms)?,
            };
            match granted {
                Ok(Grant { index, epoch }) => {
                    record.addresses = vec![IpAddr::V4(ask.range.address(index))];
                    record.epoch = epoch;
                    attachment.write(&record)?;
                    Ok(Ok(()))
                }
                Err(refusal) => Ok(Err((refusal, ipam::usage(header, table, ask.now_ms)?))),
            }
        })?;
        match outcome {
            Some(Ok(())) => Ok(record),
            Some(Err((refusal, usage))) => Err(self.refused(refusal, usage, ask)),
            None => Err(Error::new(
                Code::Io,
                format!("open the address pool of {}: no range", self.network),
            )),
        }
    }

    /// Forgets the attachment: its address begins to cool down, its record goes. `linked`: it had a link, so it had an
    /// address even if there is no record of it.
    pub fn release(
        &self,
        attachment: Attachment,
        linked: bool,
        hash: u64,
        now_ms: u64,
        deadline: Deadline,
    ) -> Result<()> {
        let addresses: Vec<Ipv4Addr> = attachment.record().into_iter().filter_map(Record::ipv4).collect();
        let lost = attachment.damaged() || linked && addresses.is_empty();
        if addresses.is_empty() && !lost {
            // It never had one.
            return attachment.remove();
        }
        let mut attachment = Some(attachment);
        self.change_pool(None, now_ms, deadline, |header, table| {
            for address in &addresses {
                release_one(header, table, *address, hash, now_ms)?;
            }
            if lost {
                for index in table.owned_by(hash)? {
                    ipam::release(header, table, index, hash, now_ms)?;
                }
            }
            match attachment.take() {
                Some(attachment) => attachment
                    .remove()
                    .map_err(|e| ipam::TableError::Io(io::Error::other(e.msg))),
                None => Ok(()),
            }
        })?;
        // No pool, nothing to give back to.
        attachment.map_or(Ok(()), Attachment::remove)
    }

    /// Releases every address of an owner but the one on record: what a repair found by a link of a lost store.
    pub fn release_strays(&self, record: &Record, now_ms: u64, deadline: Deadline) -> Result<()> {
        let hash = record.key.hash();
        let released = self.change_pool(None, now_ms, deadline, |header, table| {
            let keep = record.ipv4().and_then(|ip| header.range.index(ip));
            for index in table.owned_by(hash)? {
                if Some(index) != keep {
                    ipam::release(header, table, index, hash, now_ms)?;
                }
            }
            Ok(())
        });
        released.map(|_| ())
    }

    /// Counts of the pool, or `None` when there is none yet.
    pub fn usage(&self, range: Option<Range>, now_ms: u64, deadline: Deadline) -> Result<Option<Usage>> {
        self.read_pool(range, now_ms, deadline, |header, table| {
            ipam::usage(header, table, now_ms)
        })
    }

    fn evident(&self, hash: u64) -> Option<Ipv4Addr> {
        (self.evidence)()
            .into_iter()
            .find(|(owner, _)| *owner == hash)
            .map(|(_, address)| address)
    }

    fn attachment_path(&self, hash: u64) -> PathBuf {
        self.dir.join("attachments").join(format!("{hash:016x}"))
    }

    fn hashes(&self) -> Result<Vec<u64>> {
        let dir = self.dir.join("attachments");
        let entries = fs::read_dir(&dir).map_err(|e| Error::file("list", &dir, &e))?;
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        Ok(names
            .filter(|name| name.len() == 16)
            .filter_map(|name| u64::from_str_radix(&name, 16).ok())
            .collect())
    }

    /// A record read beside its writer: what is torn this time is whole the next.
    fn record_of(&self, hash: u64) -> Option<Record> {
        let path = self.attachment_path(hash);
        let read = |_| Record::decode(&fs::read(&path).ok()?).ok();
        (0..3).find_map(read).filter(|record| record.stamp == self.stamp)
    }

    fn refused(&self, refusal: Refusal, usage: Usage, ask: &Ask<'_>) -> Error {
        let Usage {
            size, used, cooling, ..
        } = usage;
        let pool = format!("the address pool {} of network {}", ask.range.net(), self.network);
        let wanted = ask.address.map(|ip| ip.to_string()).unwrap_or_default();
        match refusal {
            Refusal::Exhausted => Error::new(
                Code::PoolExhausted,
                format!("no address left in {pool}: {size} addresses, {used} in use, {cooling} cooling down"),
            )
            .details("delete pods, or give the node a larger podCIDR"),
            Refusal::Cooling { ready_in_ms } => Error::new(
                Code::TryAgainLater,
                format!(
                    "no address ready in {pool}: {size} addresses, {used} in use, {cooling} cooling down"
                ),
            )
            .details(format!(
                "the next one is ready in {} s",
                ready_in_ms.div_ceil(1000)
            )),
            Refusal::Taken => Error::new(
                Code::InvalidNetwork,
                format!("address {wanted} of {pool} belongs to another attachment"),
            ),
            Refusal::OutOfRange => Error::new(
                Code::InvalidNetwork,
                format!("address {wanted} is none of {pool}"),
            ),
        }
    }
}

/// What is asked of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The pool.
    pub range: Range,
    /// Addresses that are the node's own.
    pub reserved: &'a [IpAddr],
    /// This address and no other.
    pub address: Option<Ipv4Addr>,
    /// The boot clock.
    pub now_ms: u64,
}

/// Nobody's key: in the pool, the node's own addresses are this attachment's.
const NODE: u64 = u64::MAX;

/// Keeps the node's own addresses from pods; one that a pod has stays the pod's until it goes. A look at each.
fn reserve_own(
    header: &mut ipam::Header,
    table: &mut impl ipam::Table,
    addresses: &[IpAddr],
) -> std::result::Result<(), ipam::TableError> {
    for address in addresses {
        if let IpAddr::V4(address) = address
            && let Some(index) = header.range.index(*address)
        {
            // Taken is as good: it is tried again with every pod that comes.
            let _ = ipam::allocate_exact(header, table, index, NODE)?;
        }
    }
    Ok(())
}

fn release_one(
    header: &mut ipam::Header,
    table: &mut impl ipam::Table,
    address: Ipv4Addr,
    hash: u64,
    now_ms: u64,
) -> std::result::Result<(), ipam::TableError> {
    if let Some(index) = header.range.index(address) {
        ipam::release(header, table, index, hash, now_ms)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
