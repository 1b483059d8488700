//! Hash maps and tries written and read many entries at a time: one system call where the typed handles make one per entry.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
};

use aya::Pod;

use crate::{
    error::{Error, Result},
    maps,
    paths::Generation,
    sys::{self, BatchToken},
};

/// Entries per call: larger than any bucket of the kernel's hash maps comes to be, and small beside the caches.
const CHUNK: usize = 4096;

/// A map of one key and value type.
pub struct BatchMap<K: Pod, V: Pod> {
    map: OwnedFd,
    name: &'static str,
    capacity: u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> BatchMap<K, V> {
    /// Open by name; the layout is checked.
    pub fn open(generation: &Generation, name: &'static str) -> Result<Self> {
        let data = maps::open(generation, name)?;
        let failed = |error: &dyn std::error::Error| {
            Error::system("inspecting the map", name, io::Error::other(error.to_string()))
        };
        let capacity = data.info().map_err(|error| failed(&error))?.max_entries();
        let map = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::on("opening the map", name))?;
        Ok(Self {
            map,
            name,
            capacity,
            types: PhantomData,
        })
    }

    /// Write all. A map that is full is an error of its own; what was written until then stays.
    pub fn put(&self, entries: impl Iterator<Item = (K, V)>) -> Result<()> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            keys.push(key);
            values.push(value);
            if keys.len() == CHUNK {
                self.put_chunk(&keys, &values)?;
                keys.clear();
                values.clear();
            }
        }
        self.put_chunk(&keys, &values)
    }

    fn put_chunk(&self, keys: &[K], values: &[V]) -> Result<()> {
        sys::map_update_batch(self.map.as_fd(), keys, values).map_err(|error| match error.raw_os_error() {
            // Hash maps say the first, tries the second.
            Some(libc::E2BIG | libc::ENOSPC) => Error::MapFull {
                map: self.name,
                capacity: self.capacity,
            },
            _ => Error::system("writing to the map", self.name, error),
        })
    }

    /// Remove all; those that are not there are fine.
    pub fn remove(&self, keys: &[K]) -> Result<()> {
        for chunk in keys.chunks(CHUNK) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let (removed, result) = sys::map_delete_batch(self.map.as_fd(), rest);
                match result {
                    Ok(()) => break,
                    // The one after those removed is not there.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                        rest = rest.get(removed + 1..).unwrap_or_default();
                    }
                    Err(error) => return Err(Error::system("removing from the map", self.name, error)),
                }
            }
        }
        Ok(())
    }

    /// Everything. Entries that change meanwhile may be missed or seen twice, as with any hash map of the kernel.
    pub fn list(&self) -> Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        let mut token = BatchToken::default();
        let mut size = CHUNK;
        loop {
            let mut found = Vec::new();
            match sys::map_lookup_batch(self.map.as_fd(), &mut token, size, &mut found) {
                Ok(more) => {
                    all.append(&mut found);
                    if !more {
                        return Ok(all);
                    }
                }
                // One bucket holds more than was asked for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < CHUNK << 10 => size *= 2,
                Err(error) => return Err(Error::system("listing the map", self.name, error)),
            }
        }
    }
}
