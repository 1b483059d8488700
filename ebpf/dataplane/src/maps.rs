//! The maps, typed. Each handle opens the pin of one map and checks its layout first: the loader does not, and a value of
//! another size would be written over memory that is not ours.

use std::{fs, os::fd::AsRawFd, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapInfo, MapType, PerCpuArray},
};
use keelson_abi::{
    Addr, Affinity, AffinityKey, BackendBlock, BackendKey, COUNTERS, Endpoint, Flow, FlowKey, Frontend,
    FrontendKey, HostPort, HostPortKey, MAP_AFFINITY, MAP_BACKEND, MAP_COUNTER, MAP_ENDPOINT, MAP_FLOW,
    MAP_FLOW_CURSOR, MAP_FLOW_RING, MAP_FRONTEND, MAP_HOSTPORT, MAP_MAGLEV, MAP_MEMBER, MAP_NODE, MAP_PREFIX,
    MAP_SOURCE_RANGE, MAP_TRACE, MaglevBlock, MaglevKey, Member, MemberKey, NodeConfig, Prefix, PrefixKey,
    RingSlot, SourceRangeKey, Trace,
};

use crate::{
    error::{Error, Result},
    paths::Generation,
    sys,
};

/// Layouts that a pin must have: map, type, key size, value size.
const LAYOUTS: [(&str, MapType, usize, usize); 15] = [
    (
        MAP_ENDPOINT,
        MapType::Hash,
        size_of::<Addr>(),
        size_of::<Endpoint>(),
    ),
    (
        MAP_HOSTPORT,
        MapType::Hash,
        size_of::<HostPortKey>(),
        size_of::<HostPort>(),
    ),
    (MAP_NODE, MapType::Array, 4, size_of::<NodeConfig>()),
    (
        MAP_PREFIX,
        MapType::LpmTrie,
        size_of::<PrefixKey>(),
        size_of::<Prefix>(),
    ),
    (
        MAP_FRONTEND,
        MapType::Hash,
        size_of::<FrontendKey>(),
        size_of::<Frontend>(),
    ),
    (
        MAP_BACKEND,
        MapType::Hash,
        size_of::<BackendKey>(),
        size_of::<BackendBlock>(),
    ),
    (
        MAP_MEMBER,
        MapType::Hash,
        size_of::<MemberKey>(),
        size_of::<Member>(),
    ),
    (
        MAP_MAGLEV,
        MapType::Hash,
        size_of::<MaglevKey>(),
        size_of::<MaglevBlock>(),
    ),
    (MAP_SOURCE_RANGE, MapType::LpmTrie, size_of::<SourceRangeKey>(), 4),
    (
        MAP_AFFINITY,
        MapType::LruHash,
        size_of::<AffinityKey>(),
        size_of::<Affinity>(),
    ),
    (MAP_FLOW, MapType::Hash, size_of::<FlowKey>(), size_of::<Flow>()),
    (MAP_FLOW_RING, MapType::Array, 4, size_of::<RingSlot>()),
    (MAP_FLOW_CURSOR, MapType::Array, 4, 8),
    (MAP_COUNTER, MapType::PerCpuArray, 4, 8),
    (MAP_TRACE, MapType::PerCpuArray, 4, size_of::<Trace>()),
];

/// Whether every pinned map of a generation has the layout this program was built with.
pub fn check_layouts(generation: &Generation) -> Result<()> {
    LAYOUTS
        .iter()
        .try_for_each(|(name, ..)| open(generation, name).map(drop))
}

/// Open a pin after checking that it is what it should be.
pub fn open(generation: &Generation, name: &str) -> Result<MapData> {
    let path = generation.map(name);
    let data = MapData::from_pin(&path).map_err(|error| map_error("opening the map", &path, error))?;
    if let Some((_, kind, key, value)) = LAYOUTS.iter().find(|layout| layout.0 == name) {
        let info = data
            .info()
            .map_err(|error| map_error("inspecting the map", &path, error))?;
        let found = found(&info);
        let fields = [
            ("type", *kind as u32, found.0),
            ("key size", *key as u32, found.1),
            ("value size", *value as u32, found.2),
        ];
        if let Some((field, ours, theirs)) = fields.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            return Err(Error::Layout {
                path,
                field,
                ours,
                theirs,
            });
        }
    }
    Ok(data)
}

fn found(info: &MapInfo) -> (u32, u32, u32) {
    (
        info.map_type().map_or(u32::MAX, |kind| kind as u32),
        info.key_size(),
        info.value_size(),
    )
}

fn map_error(operation: &'static str, path: &Path, error: impl std::error::Error) -> Error {
    Error::system(
        operation,
        path.display().to_string(),
        std::io::Error::other(chain(&error)),
    )
}

/// An error with what lies below it: aya keeps the errno there.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    text
}

/// What became of an entry that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    Yes,
    /// Another one has its place.
    Taken,
    /// There is no room for it.
    Full,
}

/// BPF_NOEXIST.
const NOEXIST: u64 = 1;

/// A hash map of one key and value type.
pub struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Open by name.
    pub fn open(generation: &Generation, name: &'static str) -> Result<Self> {
        let data = open(generation, name)?;
        let map = HashMap::try_from(Map::HashMap(data))
            .map_err(|error| map_error("opening the map", Path::new(name), error))?;
        Ok(Self { map, name })
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("reading from the map", Path::new(self.name), error)),
        }
    }

    /// Write a value; a full map is an error that names it.
    pub fn put(&mut self, key: &K, value: &V) -> Result<()> {
        self.map
            .insert(key, value, 0)
            .map_err(|error| map_error("writing to the map", Path::new(self.name), error))
    }

    /// Write a value unless the key is there already.
    pub fn put_new(&mut self, key: &K, value: &V) -> Result<Written> {
        match self.map.insert(key, value, NOEXIST) {
            Ok(()) => Ok(Written::Yes),
            Err(aya::maps::MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
                Some(libc::EEXIST) => Ok(Written::Taken),
                Some(libc::E2BIG) => Ok(Written::Full),
                _ => Err(Error::system("writing to the map", self.name, error.io_error)),
            },
            Err(error) => Err(map_error("writing to the map", Path::new(self.name), error)),
        }
    }

    /// Remove a key; that it is not there is fine. Returns whether it was.
    pub fn remove(&mut self, key: &K) -> Result<bool> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(aya::maps::MapError::KeyNotFound) => Ok(false),
            Err(aya::maps::MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(false)
            }
            Err(error) => Err(map_error("removing from the map", Path::new(self.name), error)),
        }
    }

    /// Everything. Entries that change meanwhile may be missed or seen twice, as with any hash map of the kernel.
    pub fn list(&self) -> Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        for entry in self.map.iter() {
            match entry {
                Ok(entry) => all.push(entry),
                // Deleted between finding its key and reading it.
                Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error("listing the map", Path::new(self.name), error)),
            }
        }
        Ok(all)
    }
}

/// The one value of the `node` map.
pub struct NodeMap(Array<MapData, NodeConfig>);

impl NodeMap {
    /// Open.
    pub fn open(generation: &Generation) -> Result<Self> {
        let data = open(generation, MAP_NODE)?;
        Array::try_from(Map::Array(data))
            .map(Self)
            .map_err(|error| map_error("opening the map", Path::new(MAP_NODE), error))
    }
    /// Read; all zero until somebody wrote it.
    pub fn get(&self) -> Result<NodeConfig> {
        self.0
            .get(&0, 0)
            .map_err(|error| map_error("reading from the map", Path::new(MAP_NODE), error))
    }
    /// Write, whole.
    pub fn set(&mut self, config: &NodeConfig) -> Result<()> {
        self.0
            .set(0, config, 0)
            .map_err(|error| map_error("writing to the map", Path::new(MAP_NODE), error))
    }
}

/// The counters, summed over all CPUs, indexed by `COUNTER_*`.
pub fn counters(generation: &Generation) -> Result<Vec<u64>> {
    let data = open(generation, MAP_COUNTER)?;
    let failed = |error| map_error("reading the counters", Path::new(MAP_COUNTER), error);
    let map: PerCpuArray<MapData, u64> = PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(failed)?;
    (0..COUNTERS)
        .map(|index| {
            map.get(&index, 0)
                .map(|values| values.iter().sum())
                .map_err(failed)
        })
        .collect()
}

/// What dry runs wrote, per CPU.
pub fn traces(generation: &Generation) -> Result<Vec<Trace>> {
    let data = open(generation, MAP_TRACE)?;
    let failed = |error| map_error("reading the trace", Path::new(MAP_TRACE), error);
    let map: PerCpuArray<MapData, Trace> = PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(failed)?;
    Ok(map.get(&0, 0).map_err(failed)?.to_vec())
}

/// Memory of every map in bytes, as the kernel accounts it.
pub fn memory(generation: &Generation) -> Result<Vec<(String, u64)>> {
    let names = pinned(generation)?.into_iter();
    names
        .map(|name| {
            let path = generation.map(&name);
            let map = sys::obj_get(&path).map_err(Error::on("opening", path.display().to_string()))?;
            let info = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
            let text = fs::read_to_string(&info).map_err(Error::on("reading", info.clone()))?;
            let bytes = text
                .lines()
                .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
                .ok_or_else(|| Error::system("reading", info, std::io::ErrorKind::InvalidData.into()))?;
            Ok((name, bytes))
        })
        .collect()
}

/// Every pin of a generation's maps.
pub fn pinned(generation: &Generation) -> Result<Vec<String>> {
    let folder = generation.path.join("maps");
    let entries = fs::read_dir(&folder).map_err(Error::on("listing", folder.display().to_string()))?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect())
}
