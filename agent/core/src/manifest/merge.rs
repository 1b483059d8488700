//! All files together: what runs from each of them, and what is wrong with it.
//!
//! A file is taken as a whole. Where its newest text cannot be used, its last good state goes on. Two files that claim the
//! same thing (an object, a node port, a cluster address) cannot both be used: who had it first keeps it, the other's
//! newest text is refused, and the report names both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;

use super::{
    object::{Id, Object},
    plan::keep_allocated,
};
use crate::object::Key;

/// What was read from a file, or what is wrong with it.
pub type Reading = Result<Vec<Object>, Vec<String>>;

/// Files that are there, by path.
pub type Readings = BTreeMap<PathBuf, Reading>;

/// Objects that run from each file.
pub type Accepted = BTreeMap<PathBuf, Vec<Object>>;

/// What only one object of the node may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// Being this object.
    Object(Id),
    /// A port of the node: number and protocol.
    NodePort(i32, String),
    /// A cluster address.
    ClusterIp(String),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(id) => id.fmt(f),
            Self::NodePort(port, protocol) => write!(f, "nodePort {port}/{protocol}"),
            Self::ClusterIp(address) => write!(f, "clusterIP {address}"),
        }
    }
}

/// Services as they run, with what the node allocated for them: a manifest that asks for the same must not take it away.
pub type Allocated = BTreeMap<Key, Arc<Service>>;

/// The outcome for the whole folder.
#[derive(Debug, Default, PartialEq)]
pub struct Merged {
    /// What is to run.
    pub accepted: Accepted,
    /// What is wrong with the newest text of a file; files without problems are absent.
    pub problems: BTreeMap<PathBuf, Vec<String>>,
}

/// Put all files together. Files that are not in `readings` are gone, and so is what ran from them.
pub fn merge(readings: &Readings, last_good: &Accepted, allocated: &Allocated) -> Merged {
    let mut problems: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (path, reading) in readings {
        let errors = match reading {
            Ok(objects) => twice(objects),
            Err(errors) => errors.clone(),
        };
        if !errors.is_empty() {
            problems.insert(path.clone(), errors);
        }
    }
    // Every round puts at least one more file back to its last good state. These cannot contradict each other, since
    // they ran together, so the rounds end.
    loop {
        let lost = conflicts(readings, last_good, allocated, &problems);
        if lost.is_empty() {
            break;
        }
        problems.extend(lost);
    }
    let accepted = readings
        .keys()
        .map(|path| (path.clone(), state(path, readings, last_good, &problems).to_vec()))
        .filter(|(_, objects)| !objects.is_empty())
        .collect();
    Merged { accepted, problems }
}

/// What a file stands for at this moment: its newest text, or what ran last if there is something wrong with that.
fn state<'a>(
    path: &Path,
    readings: &'a Readings,
    last_good: &'a Accepted,
    problems: &BTreeMap<PathBuf, Vec<String>>,
) -> &'a [Object] {
    match readings.get(path) {
        Some(Ok(objects)) if !problems.contains_key(path) => objects,
        _ => last_good.get(path).map_or(&[], Vec::as_slice),
    }
}

/// Files whose newest text claims what another file has.
fn conflicts(
    readings: &Readings,
    last_good: &Accepted,
    allocated: &Allocated,
    problems: &BTreeMap<PathBuf, Vec<String>>,
) -> BTreeMap<PathBuf, Vec<String>> {
    let had: BTreeSet<(&Path, Claim)> = last_good
        .iter()
        .flat_map(|(path, objects)| {
            objects
                .iter()
                .flat_map(|object| claims(object, allocated))
                .map(|claim| (path.as_path(), claim))
        })
        .collect();
    let mut owners: BTreeMap<Claim, Vec<(&Path, Id)>> = BTreeMap::new();
    for path in readings.keys() {
        for object in state(path, readings, last_good, problems) {
            for claim in claims(object, allocated) {
                owners.entry(claim).or_default().push((path, object.id()));
            }
        }
    }
    let mut lost: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (claim, mut owners) in owners {
        // Who cannot yield any more comes first, then who had it; the order of paths decides the rest.
        owners.sort_by_key(|(path, _)| {
            (
                !problems.contains_key(*path),
                !had.contains(&(*path, claim.clone())),
                path.to_path_buf(),
            )
        });
        let (first, others) = match owners.split_first() {
            Some(split) => split,
            None => continue,
        };
        for (path, id) in others
            .iter()
            .filter(|(path, _)| *path != first.0 && !problems.contains_key(*path))
        {
            lost.entry(path.to_path_buf())
                .or_default()
                .push(refusal(&claim, id, path, first));
        }
    }
    lost
}

fn refusal(claim: &Claim, id: &Id, path: &Path, (owner, owner_id): &(&Path, Id)) -> String {
    match claim {
        Claim::Object(_) => format!(
            "{id} is defined in {} already; {} is refused until one of them goes",
            owner.display(),
            path.display()
        ),
        _ => format!(
            "{claim} of {id} belongs to {owner_id} in {} already; {} is refused until one of them changes",
            owner.display(),
            path.display()
        ),
    }
}

/// Contradictions within one file.
fn twice(objects: &[Object]) -> Vec<String> {
    let mut seen: BTreeMap<Claim, Id> = BTreeMap::new();
    let mut errors = Vec::new();
    for object in objects {
        for claim in claims(object, &Allocated::new()) {
            match (seen.insert(claim.clone(), object.id()), &claim) {
                (None, _) => {}
                (Some(_), Claim::Object(id)) => errors.push(format!("{id} is defined twice in this file")),
                (Some(other), _) => errors.push(format!(
                    "{claim} of {} belongs to {other} of this file",
                    object.id()
                )),
            }
        }
    }
    errors
}

/// What an object claims for itself.
pub fn claims(object: &Object, allocated: &Allocated) -> Vec<Claim> {
    let mut claims = Vec::new();
    let id = object.id();
    if let Object::Service(service) = object
        && let Some(mut spec) = service.spec.clone()
    {
        if let Some(old) = allocated.get(&id.key).and_then(|there| there.spec.as_ref()) {
            keep_allocated(&mut spec, old);
        }
        for port in spec.ports.iter_mut().flatten() {
            if let Some(number) = port.node_port {
                claims.push(Claim::NodePort(number, port.protocol.take().unwrap_or_default()));
            }
        }
        let several = spec.cluster_ips.unwrap_or_default();
        let all = if several.is_empty() {
            spec.cluster_ip.into_iter().collect()
        } else {
            several
        };
        let addresses = all.into_iter().filter(|address| address != "None");
        claims.extend(addresses.map(Claim::ClusterIp));
    }
    // Any number of files may name the namespace they use.
    if !matches!(object, Object::Namespace(_)) {
        claims.push(Claim::Object(id));
    }
    claims
}
