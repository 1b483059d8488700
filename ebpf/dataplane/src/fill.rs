//! How full the maps are, without walking them.
//!
//! The kernel tells no map's number of entries, but how much memory it takes, and that grows by the same amount with every entry
//! of a map that allocates as it goes. A twin, made once, empty and with one entry, gives the two figures.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use keelson_abi::{
    MAP_BACKEND, MAP_ENDPOINT, MAP_FLOW, MAP_FRONTEND, MAP_HOSTPORT, MAP_MAGLEV, MAP_MEMBER, MAP_PREFIX,
    MAP_SOURCE_RANGE,
};

use crate::{
    dataplane::Dataplane,
    error::{Error, Result},
    sys,
};

/// Maps that can fill up. (LRU maps make room by themselves, arrays are always full.)
const FILLING: [&str; 9] = [
    MAP_ENDPOINT,
    MAP_HOSTPORT,
    MAP_PREFIX,
    MAP_FRONTEND,
    MAP_BACKEND,
    MAP_MEMBER,
    MAP_MAGLEV,
    MAP_SOURCE_RANGE,
    MAP_FLOW,
];

const NO_PREALLOC: u32 = 1;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub map: &'static str,
    /// Entries.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// A map as its `fdinfo` tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    capacity: u32,
    flags: u32,
}

/// Bytes of an empty map, and of each entry.
type Weights = (u64, u64);

impl Dataplane {
    /// How full each map is that can fill up, as of now. A few file reads.
    pub fn fills(&self) -> Result<Vec<Fill>> {
        let mut fills = Vec::new();
        for map in FILLING {
            let path = self.generation().map(map);
            let object = || path.display().to_string();
            let fd = sys::obj_get(&path).map_err(Error::on("opening the map", object()))?;
            let (shape, bytes) = look(fd.as_fd()).map_err(Error::on("weighing the map", object()))?;
            if shape.flags & NO_PREALLOC == 0 {
                // All of it is allocated from the start: it tells nothing.
                continue;
            }
            let (empty, each) = weights(shape).map_err(Error::on("making a twin of the map", object()))?;
            fills.push(Fill {
                map,
                entries: bytes.saturating_sub(empty).checked_div(each).unwrap_or(0),
                capacity: u64::from(shape.capacity),
            });
        }
        Ok(fills)
    }
}

fn weights(shape: Shape) -> io::Result<Weights> {
    static KNOWN: Mutex<BTreeMap<Shape, Weights>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(weights) = known.get(&shape) {
        return Ok(*weights);
    }
    let twin = sys::map_create(shape.kind, shape.key, shape.value, shape.capacity, shape.flags)?;
    let (_, empty) = look(twin.as_fd())?;
    sys::map_put_zero(twin.as_fd(), shape.key as usize, shape.value as usize)?;
    let (_, one) = look(twin.as_fd())?;
    let weights = (empty, one.saturating_sub(empty));
    known.insert(shape, weights);
    Ok(weights)
}

fn look(map: BorrowedFd<'_>) -> io::Result<(Shape, u64)> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let number = |name: &str| -> io::Result<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line
            .map(str::trim)
            .and_then(|text| match text.strip_prefix("0x") {
                Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
                None => text.parse().ok(),
            });
        value.ok_or_else(|| io::Error::other(format!("the kernel tells no {name} of it")))
    };
    let short = |name: &str| number(name).map(|value| value as u32);
    let shape = Shape {
        kind: short("map_type")?,
        key: short("key_size")?,
        value: short("value_size")?,
        capacity: short("max_entries")?,
        // Only what a map may be made with again: not how programs may reach it.
        flags: short("map_flags")? & NO_PREALLOC,
    };
    Ok((shape, number("memlock")?))
}
