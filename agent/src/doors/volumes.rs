//! Pods' directories: volumes, the hosts file, termination messages.
//!
//! ```text
//! <root>/pods/<uid>/volumes/kubernetes.io~<kind>/<volume>
//! <root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>
//! <root>/pods/<uid>/containers/<container>/<attempt>   what the container leaves as its last word
//! <root>/pods/<uid>/etc-hosts
//! ```
//! The layout is kubelet's, so that tools which know it find their way. Everything may be done again at any time.

pub mod atomic;
pub mod hosts;
mod kinds;
pub mod log;
mod mounts;
pub mod payload;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use keelson_core::object::Key;

use crate::world::Objects;

/// A container's last word is cut here.
const MESSAGE_LIMIT: usize = 4096;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object or a key that the volume is made of does not exist (yet).
    #[error("volume {volume:?}: {what}")]
    Missing {
        /// The volume.
        volume: String,
        /// What is missing.
        what: String,
    },
    /// hostPath's type does not fit what is there.
    #[error("volume {volume:?}: hostPath {path} {problem}")]
    HostPath {
        /// The volume.
        volume: String,
        /// The path on the node.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of volume this version does not know.
    #[error("volume {0:?}: only emptyDir, hostPath, configMap and secret are supported")]
    Unsupported(String),
    /// Writing a ConfigMap's or Secret's files failed.
    #[error("volume {volume:?}: {source}")]
    Write {
        /// The volume.
        volume: String,
        /// Why.
        source: atomic::Error,
    },
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The door to pods' directories.
#[derive(Clone, Debug)]
pub struct Volumes {
    pods: PathBuf,
    logs: PathBuf,
}

/// The volumes of a pod: name → path on the node.
pub type Paths = BTreeMap<String, PathBuf>;

impl Volumes {
    /// Below the agent's root; logs are elsewhere.
    pub fn new(root: &Path, logs: &Path) -> Self {
        Self {
            pods: root.join("pods"),
            logs: logs.to_owned(),
        }
    }

    /// A pod's directory.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Where the runtime writes a pod's logs: one folder per container in it.
    pub fn log_directory(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Make all of a pod's volumes, with the content the objects have now. Doing it again brings them up to date.
    pub fn prepare(&self, pod: &Pod, objects: &Objects) -> Result<Paths, Error> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let namespace = Key::of(&pod.metadata).namespace;
        let Some(spec) = &pod.spec else {
            return Ok(Paths::new());
        };
        let group = spec
            .security_context
            .as_ref()
            .and_then(|context| context.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let mut paths = Paths::new();
        for volume in spec.volumes.iter().flatten() {
            let path = self.one(uid, &namespace, volume, group, objects)?;
            paths.insert(volume.name.clone(), path);
        }
        Ok(paths)
    }

    /// Where a volume is, made or not.
    pub fn path(&self, uid: &str, volume: &Volume) -> Option<PathBuf> {
        if let Some(source) = &volume.host_path {
            return Some(PathBuf::from(&source.path));
        }
        let kind = match volume {
            Volume {
                config_map: Some(_), ..
            } => "configmap",
            Volume { secret: Some(_), .. } => "secret",
            Volume {
                empty_dir: Some(_), ..
            } => "empty-dir",
            _ => return None,
        };
        Some(
            self.pod(uid)
                .join(format!("volumes/kubernetes.io~{kind}"))
                .join(&volume.name),
        )
    }

    fn one(
        &self,
        uid: &str,
        namespace: &str,
        volume: &Volume,
        group: Option<u32>,
        objects: &Objects,
    ) -> Result<PathBuf, Error> {
        let name = &volume.name;
        if let Some(source) = &volume.host_path {
            return kinds::host_path(name, source);
        }
        let place = |kind: &str| {
            self.pod(uid)
                .join(format!("volumes/kubernetes.io~{kind}"))
                .join(name)
        };
        if let Some(source) = &volume.config_map {
            let object = objects.config_maps.get(&Key::new(namespace, &source.name));
            let payload = payload::config_map(name, source, object.map(AsRef::as_ref))?;
            let path = place("configmap");
            make_folder(&path, 0o755)?;
            return write(name, path, payload, group);
        }
        if let Some(source) = &volume.secret {
            let object = source
                .secret_name
                .as_ref()
                .and_then(|secret| objects.secrets.get(&Key::new(namespace, secret)));
            let payload = payload::secret(name, source, object.map(AsRef::as_ref))?;
            let path = place("secret");
            make_folder(&path, 0o755)?;
            // Never on a disk.
            mounts::memory(&path, None)?;
            set_mode(&path, 0o755)?;
            return write(name, path, payload, group);
        }
        if let Some(source) = &volume.empty_dir {
            let path = place("empty-dir");
            kinds::empty_dir(&path, source, group)?;
            return Ok(path);
        }
        Err(Error::Unsupported(name.clone()))
    }

    /// The path to mount for one of a container's mounts: the volume, or the place inside it that `sub_path` names.
    pub fn mount_path(
        &self,
        uid: &str,
        container: &str,
        index: usize,
        (volume, path): (&str, &Path),
        sub_path: Option<&str>,
    ) -> Result<PathBuf, Error> {
        let Some(sub_path) = sub_path.filter(|sub_path| !sub_path.is_empty()) else {
            return Ok(path.to_owned());
        };
        let target = self
            .pod(uid)
            .join("volume-subpaths")
            .join(volume)
            .join(container)
            .join(index.to_string());
        mounts::bind_inside(path, Path::new(sub_path), &target)?;
        Ok(target)
    }

    /// Write the pod's hosts file, in place: containers have it mounted.
    pub fn write_hosts(&self, uid: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.pod(uid).join("etc-hosts");
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(path);
        }
        make_folder(&self.pod(uid), 0o750)?;
        fs::write(&path, text).map_err(|error| file("write", &path, error))?;
        set_mode(&path, 0o644)?;
        Ok(path)
    }

    /// An empty file for a container's last word.
    pub fn make_termination_log(&self, uid: &str, container: &str, attempt: u32) -> Result<PathBuf, Error> {
        let path = self.termination_log(uid, container, attempt);
        if let Some(parent) = path.parent() {
            make_folder(parent, 0o755)?;
        }
        fs::write(&path, b"").map_err(|error| file("write", &path, error))?;
        // Whoever the container runs as may write.
        set_mode(&path, 0o666)?;
        Ok(path)
    }

    /// Where that file is.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid)
            .join("containers")
            .join(container)
            .join(attempt.to_string())
    }

    /// A container's last word, cut to a size fit for a status.
    pub fn termination_message(&self, uid: &str, container: &str, attempt: u32) -> Option<String> {
        let bytes = fs::read(self.termination_log(uid, container, attempt)).ok()?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MESSAGE_LIMIT)]).into_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Make the folder the runtime writes a container's log into.
    pub fn make_log_folder(&self, directory: &Path, container: &str) -> Result<(), Error> {
        make_folder(&directory.join(container), 0o755)
    }

    /// Remove everything of a pod: unmount, then delete.
    pub fn remove(&self, uid: &str) -> Result<(), Error> {
        remove_tree(&self.pod(uid))
    }

    /// Remove the logs of a pod that is gone.
    pub fn remove_logs(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
        remove_tree(&self.log_directory(namespace, name, uid))
    }

    /// UIDs of pods that have a directory.
    pub fn pods(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.pods) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    mounts::clear(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path, error)),
        _ => Ok(()),
    }
}

fn write(
    volume: &str,
    path: PathBuf,
    mut payload: atomic::Payload,
    group: Option<u32>,
) -> Result<PathBuf, Error> {
    if group.is_some() {
        // A group that owns the files is meant to read them, whatever mode was asked for.
        for entry in payload.values_mut() {
            entry.mode |= 0o440;
        }
    }
    let now = jiff::Timestamp::now();
    let stamp = format!(
        "{}-{}",
        now.strftime("%Y_%m_%d_%H_%M_%S"),
        now.subsec_nanosecond()
    );
    atomic::write(&path, &payload, group, &stamp).map_err(|source| Error::Write {
        volume: volume.to_owned(),
        source,
    })?;
    Ok(path)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|error| file("make folder", path, error))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    // Set, not left to creation: the process' umask would take bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| file("set mode of", path, error))
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
