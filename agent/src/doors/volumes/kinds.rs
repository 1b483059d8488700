//! Volumes that are just a place: the pod's own folder, or one of the node's paths.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};

use super::{Error, file, make_folder, mounts, set_mode};

/// A folder of the pod's own, on disk or in memory.
pub fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Error> {
    let fresh = !path.exists();
    make_folder(path, 0o777)?;
    if source.medium.as_deref() == Some("Memory") {
        let size = source
            .size_limit
            .as_ref()
            .and_then(keelson_core::pod::resources::units);
        mounts::memory(path, size)?;
    } else if !fresh {
        // The pod may have changed its mode since: it is the pod's.
        return Ok(());
    }
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(|error| file("set group of", path, error))?;
    }
    set_mode(path, if group.is_some() { 0o2777 } else { 0o777 })
}

/// A path of the node, checked against the type the pod says.
pub fn host_path(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    let problem = |problem: String| Error::HostPath {
        volume: volume.to_owned(),
        path: path.clone(),
        problem,
    };
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(&path);
    match (kind, &found) {
        ("DirectoryOrCreate", Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(&path, 0o755)?;
            return Ok(path);
        }
        ("FileOrCreate", Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            fs::write(&path, b"").map_err(|error| file("make", &path, error))?;
            set_mode(&path, 0o644)?;
            return Ok(path);
        }
        ("", _) => return Ok(path),
        _ => {}
    }
    let metadata = found.map_err(|error| problem(format!("cannot be used: {error}")))?;
    let file_type = metadata.file_type();
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => file_type.is_dir(),
        "File" | "FileOrCreate" => file_type.is_file(),
        "Socket" => file_type.is_socket(),
        "CharDevice" => file_type.is_char_device(),
        "BlockDevice" => file_type.is_block_device(),
        _ => return Err(problem(format!("has an unknown type {kind:?}"))),
    };
    if fits {
        Ok(path)
    } else {
        Err(problem(format!("is not of type {kind}")))
    }
}
