//! One attachment's record file, held under its lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Deadline, Record, lock};
use crate::{
    error::{Code, Error, Result},
    ipam::{Stamp, TableError},
    key::Key,
};

/// A locked record. The lock ends with this value.
#[derive(Debug)]
pub struct Attachment {
    file: File,
    path: PathBuf,
    record: Option<Record>,
    damaged: bool,
}

pub(super) enum Try {
    Locked(Box<Attachment>),
    Busy,
    Gone,
}

impl Attachment {
    pub(super) fn lock(path: &Path, deadline: Deadline) -> Result<Self> {
        loop {
            let file = open(path, true).map_err(|e| Error::file("open", path, &e))?;
            lock::lock(&file, path, deadline)?;
            if let Some(attachment) = Self::held(file, path)? {
                return Ok(attachment);
            }
        }
    }

    pub(super) fn try_lock(path: &Path, create: bool) -> Result<Try> {
        let file = match open(path, create) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Try::Gone),
            Err(e) => return Err(Error::file("open", path, &e)),
        };
        if !lock::try_lock(&file, path)? {
            return Ok(Try::Busy);
        }
        Ok(Self::held(file, path)?.map_or(Try::Gone, |held| Try::Locked(Box::new(held))))
    }

    /// The holder before us may have removed the file while we waited: such a lock guards nothing.
    fn held(file: File, path: &Path) -> Result<Option<Self>> {
        let meta = file.metadata().map_err(|e| Error::file("inspect", path, &e))?;
        let attachment = Self {
            file,
            path: path.to_owned(),
            record: None,
            damaged: false,
        };
        Ok((meta.nlink() > 0).then_some(attachment))
    }

    /// Reads what is there. An empty file is one whose owner has not come far; one of another boot says nothing.
    pub(super) fn read(mut self, stamp: Stamp, key: Option<&Key>) -> Result<Self> {
        let mut bytes = Vec::new();
        (&self.file)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::file("read", &self.path, &e))?;
        match Record::decode(&bytes) {
            Ok(record) => {
                if let Some(key) = key.filter(|key| **key != record.key) {
                    return Err(Error::new(
                        Code::Io,
                        format!(
                            "{} is the record of {}, not of {key}: two keys have one hash",
                            self.path.display(),
                            record.key
                        ),
                    ));
                }
                self.record = Some(record).filter(|record| record.stamp == stamp);
            }
            Err(_) => self.damaged = !bytes.is_empty(),
        }
        Ok(self)
    }

    /// The record, unless it is new, damaged or of another boot.
    #[must_use]
    pub const fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Something was written here, and cannot be read.
    #[must_use]
    pub const fn damaged(&self) -> bool {
        self.damaged
    }

    /// Writes the record, in place: a rename would leave the lock on the old file.
    pub fn write(&mut self, record: &Record) -> Result<(), TableError> {
        let bytes = record.encode();
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        self.record = Some(record.clone());
        self.damaged = false;
        Ok(())
    }

    /// Writes the record outside of a change of the pool.
    pub fn save(&mut self, record: &Record) -> Result<()> {
        self.write(record)
            .map_err(|e| Error::new(Code::Io, format!("write {}: {e}", self.path.display())))
    }

    /// Removes the file, under the lock. For one that has nothing on record.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &self.path, &e)),
            _ => Ok(()),
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
}
