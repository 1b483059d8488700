//! Mounts below a pod's directory: file systems in memory, and paths inside volumes.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};

use super::{Error, file};

/// Mount points at or below a path, deepest last mounted first.
pub fn below(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(|error| file("read", table, error))?;
    let mut found: Vec<_> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|mount| PathBuf::from(unescape(mount)))
        .filter(|mount| mount.starts_with(path))
        .collect();
    found.reverse();
    Ok(found)
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Make `path` a file system in memory, of at most `size` bytes. Already one: nothing is done.
pub fn memory(path: &Path, size: Option<u64>) -> Result<(), Error> {
    if below(path)?.iter().any(|mount| mount == path) {
        return Ok(());
    }
    let options = size.map(|size| format!("size={size}"));
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        options.as_deref(),
    )
    .map_err(|error| file("mount a file system in memory on", path, error.into()))
}

/// Unmount everything at and below a path. Fails if something stays: what is mounted may be anybody's files, and the
/// caller is about to delete.
pub fn clear(path: &Path) -> Result<(), Error> {
    for mount in below(path)? {
        if let Err(error) = umount2(&mount, MntFlags::UMOUNT_NOFOLLOW) {
            tracing::debug!(%error, mount = %mount.display(), "busy: detached instead of unmounted");
            umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|error| file("unmount", &mount, error.into()))?;
        }
    }
    match below(path)?.pop() {
        None => Ok(()),
        Some(left) => Err(file("unmount", &left, io::ErrorKind::ResourceBusy.into())),
    }
}

/// Bind the place `inside` a volume to `target`, so that no link in the volume can lead out of it, now or later: the
/// place is opened below the volume by the kernel, and what was opened is mounted. A missing place is made a folder.
/// A mount from before is replaced.
pub fn bind_inside(volume: &Path, inside: &Path, target: &Path) -> Result<(), Error> {
    // A restarted container gets what the volume holds now, not what it held when the pod began.
    clear(target)?;
    let root = open_folder(volume)?;
    let place = match open_inside(&root, inside) {
        Err(nix::errno::Errno::ENOENT) => {
            make_inside(&root, volume, inside)?;
            open_inside(&root, inside)
        }
        other => other,
    }
    .map_err(|error| file("open the subPath", &volume.join(inside), error.into()))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let metadata = fs::metadata(&source).map_err(|error| file("look at", &source, error))?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| file("make folder", parent, error))?;
    }
    let made = if metadata.is_dir() {
        fs::create_dir_all(target)
    } else {
        fs::write(target, b"")
    };
    made.map_err(|error| file("make", target, error))?;
    mount(
        Some(&source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|error| file("bind the subPath to", target, error.into()))
}

fn open_folder(path: &Path) -> Result<OwnedFd, Error> {
    nix::fcntl::open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| file("open", path, error.into()))
}

fn open_inside(root: &OwnedFd, inside: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), inside, how)
}

/// Make the missing folders one by one, each below the one opened before.
fn make_inside(root: &OwnedFd, volume: &Path, inside: &Path) -> Result<(), Error> {
    let mut at = PathBuf::new();
    for part in inside.components() {
        let parent = if at.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &at
        };
        let opened = open_inside(root, parent)
            .map_err(|error| file("open the subPath", &volume.join(parent), error.into()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(part);
        match fs::DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(file("make the subPath", &volume.join(inside), error));
            }
            _ => at.push(part),
        }
    }
    Ok(())
}
