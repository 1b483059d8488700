//! Generations: load and pin a new one, or put new programs over the maps of the one that is there.
//!
//! Whoever calls this holds the lock. Nothing becomes visible before it is whole: `current` and `programs` are links that are
//! renamed over. A process that dies in between leaves a folder that the next one clears.

use std::{fs, os::fd::AsFd, path::Path};

use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use keelson_abi::{MAP_ENDPOINT, MAP_HOSTPORT, MAPS, PROGRAMS};

use crate::{
    error::{Error, Result},
    maps::{self, NodeMap, Table},
    object,
    paths::{self, Generation, Paths},
    sys,
};

/// Load a whole new generation and make it current. `previous` is the one it takes over from.
pub fn new_generation(paths: &Paths, previous: Option<&Generation>) -> Result<Generation> {
    let generation = Generation::next(paths, previous);
    paths::remove_tree(&generation.path)?;
    paths::make_folder(&generation.path.join("maps"))?;
    paths::make_folder(&generation.links())?;
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader.load(object::bytes()?).map_err(refused)?;
    // Only maps that have a layout to rely on: a build's own scratch memory must never meet another build's programs.
    for (name, map) in ebpf.maps().filter(|(name, _)| MAPS.contains(name)) {
        let path = generation.map(name);
        map.pin(&path).map_err(|error| pin_error(&path, &error))?;
    }
    pin_programs(&mut ebpf, &generation, &object::build()?)?;
    if let Some(previous) = previous {
        inherit(previous, &generation)?;
    }
    Ok(generation)
}

/// Make a generation the current one.
pub fn make_current(paths: &Paths, generation: &Generation) -> Result<()> {
    let name = generation
        .path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    paths::replace_link(&paths.current(), &name)
}

/// Put this build's programs over the maps of a generation with our layout. Links and filters are the caller's to switch.
pub fn replace_programs(generation: &Generation) -> Result<()> {
    maps::check_layouts(generation)?;
    let pins: Vec<(String, std::path::PathBuf)> = maps::pinned(generation)?
        .into_iter()
        .map(|name| (name.clone(), generation.map(&name)))
        .collect();
    let mut loader = EbpfLoader::new();
    for (name, path) in &pins {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(object::bytes()?).map_err(refused)?;
    pin_programs(&mut ebpf, generation, &object::build()?)
}

/// Remove the programs of other builds.
pub fn remove_old_builds(generation: &Generation) -> Result<()> {
    let keep = generation.build_folder(&object::build()?);
    for entry in entries(&generation.path)? {
        let is_build = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("p-"));
        if is_build && entry != keep {
            paths::remove_tree(&entry)?;
        }
    }
    Ok(())
}

/// Remove every generation but one.
pub fn remove_old_generations(paths: &Paths, keep: &Generation) -> Result<()> {
    for entry in entries(&paths.root())? {
        if entry != keep.path && !entry.is_symlink() {
            paths::remove_tree(&entry)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let read = fs::read_dir(folder).map_err(Error::on("listing", folder.display().to_string()))?;
    Ok(read.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn pin_programs(ebpf: &mut Ebpf, generation: &Generation, build: &str) -> Result<()> {
    let folder = generation.build_folder(build);
    paths::remove_tree(&folder)?;
    paths::make_folder(&folder)?;
    for name in PROGRAMS {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| Error::Load(format!("the object has no program {name}")))?;
        let classifier: &mut SchedClassifier = program
            .try_into()
            .map_err(|error| Error::Load(format!("{name}: {error}")))?;
        classifier
            .load()
            .map_err(|error| Error::Load(format!("{name}: {}", verbose(&error))))?;
        let path = folder.join(name);
        let fd = classifier
            .fd()
            .map_err(|error| Error::Load(format!("{name}: {error}")))?;
        sys::obj_pin(fd.as_fd(), &path).map_err(Error::on("pinning", path.display().to_string()))?;
    }
    paths::replace_link(&generation.path.join("programs"), &format!("p-{build}"))
}

/// What a generation of another layout takes over: the attach contract's maps. Flows start anew.
fn inherit(previous: &Generation, next: &Generation) -> Result<()> {
    if previous.check_contract().is_err() {
        return Ok(());
    }
    copy::<keelson_abi::Addr, keelson_abi::Endpoint>(previous, next, MAP_ENDPOINT)?;
    copy::<keelson_abi::HostPortKey, keelson_abi::HostPort>(previous, next, MAP_HOSTPORT)?;
    let config = NodeMap::open(previous)?.get()?;
    NodeMap::open(next)?.set(&config)
}

fn copy<K: aya::Pod, V: aya::Pod>(from: &Generation, to: &Generation, name: &'static str) -> Result<()> {
    let source = Table::<K, V>::open(from, name)?;
    let mut target = Table::<K, V>::open(to, name)?;
    source
        .list()?
        .into_iter()
        .try_for_each(|(key, value)| target.put(&key, &value))
}

fn refused(error: aya::EbpfError) -> Error {
    Error::Load(verbose(&error))
}

fn pin_error(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::system(
        "pinning",
        path.display().to_string(),
        std::io::Error::other(verbose(error)),
    )
}

fn verbose(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    text
}
