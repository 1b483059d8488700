//! Files that change together, seen by readers either all old or all new.
//!
//! ```text
//! <folder>/..2026-11-24T00.41.36.123456789/key    the bytes
//! <folder>/..data -> ..2026-11-24T00.41.36.…      swapped by one rename
//! <folder>/key -> ..data/key                      what the pod opens
//! ```
//! This is the layout every Kubernetes node uses; programs watch `..data` to learn of a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

/// The symlink that is swapped.
const DATA: &str = "..data";
/// The new one before the rename.
const NEXT: &str = "..data_tmp";

/// A file's bytes and permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by path relative to the folder.
pub type Payload = BTreeMap<PathBuf, Entry>;

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// A path would leave the folder or hide its own links.
    #[error("file path {0:?} must be relative, without '..', and not start with '..'")]
    Path(PathBuf),
}

/// Make `folder` show exactly `payload`; `group` becomes the files' group. Returns whether anything changed.
/// `stamp` must differ from call to call: it names the folder of this content.
pub fn write(folder: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> Result<bool, Error> {
    for path in payload.keys() {
        check(path)?;
    }
    let data = folder.join(DATA);
    let current = fs::read_link(&data).ok();
    if let Some(current) = &current
        && read(&folder.join(current)).is_ok_and(|(old, owner)| {
            old == *payload && group.is_none_or(|gid| owner == Some(gid) || payload.is_empty())
        })
    {
        link(folder, payload)?;
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let fresh = folder.join(&name);
    if let Err(error) = fill(&fresh, payload, group) {
        // A half-written folder is nobody's.
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    let next = folder.join(NEXT);
    let _ = fs::remove_file(&next);
    symlink(&name, &next).map_err(|error| file("link", &next, error))?;
    fs::rename(&next, &data).map_err(|error| file("swap", &data, error))?;
    link(folder, payload)?;
    if let Some(current) = current {
        let old = folder.join(current);
        if let Err(error) = fs::remove_dir_all(&old) {
            tracing::debug!(%error, path = %old.display(), "an old copy of a volume was left behind");
        }
    }
    Ok(true)
}

fn check(path: &Path) -> Result<(), Error> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let hidden = path.to_string_lossy().starts_with("..");
    if plain && !hidden && path.components().next().is_some() {
        Ok(())
    } else {
        Err(Error::Path(path.to_owned()))
    }
}

fn fill(fresh: &Path, payload: &Payload, group: Option<u32>) -> Result<(), Error> {
    make_folder(fresh)?;
    for (path, entry) in payload {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| file("make folder", parent, error))?;
        }
        fs::write(&path, &entry.bytes).map_err(|error| file("write", &path, error))?;
        if let Some(group) = group {
            chown(&path, None, Some(group)).map_err(|error| file("set group of", &path, error))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))
            .map_err(|error| file("set mode of", &path, error))?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).map_err(|error| file("make folder", path, error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| file("set mode of", path, error))
}

/// What a folder of content holds, and the group of its files where all have the same.
fn read(folder: &Path) -> io::Result<(Payload, Option<u32>)> {
    fn walk(root: &Path, at: &Path, payload: &mut Payload, groups: &mut BTreeSet<u32>) -> io::Result<()> {
        for entry in fs::read_dir(at)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                walk(root, &path, payload, groups)?;
                continue;
            }
            groups.insert(std::os::unix::fs::MetadataExt::gid(&metadata));
            let entry = Entry {
                bytes: fs::read(&path)?,
                mode: metadata.permissions().mode() & 0o7777,
            };
            payload.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), entry);
        }
        Ok(())
    }
    let (mut payload, mut groups) = (Payload::new(), BTreeSet::new());
    walk(folder, folder, &mut payload, &mut groups)?;
    Ok((
        payload,
        if groups.len() == 1 {
            groups.pop_first()
        } else {
            None
        },
    ))
}

/// The links a pod sees: one per first part of a path. Those of keys that are gone are removed.
fn link(folder: &Path, payload: &Payload) -> Result<(), Error> {
    let wanted: BTreeSet<_> = payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|part| part.as_os_str().to_owned())
        .collect();
    for name in &wanted {
        let path = folder.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&path).is_ok_and(|existing| existing == target) {
            continue;
        }
        let _ = fs::remove_file(&path);
        symlink(&target, &path).map_err(|error| file("link", &path, error))?;
    }
    let entries = fs::read_dir(folder).map_err(|error| file("list", folder, error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !wanted.contains(&name) && !name.to_string_lossy().starts_with("..") {
            let path = entry.path();
            fs::remove_file(&path).map_err(|error| file("remove", &path, error))?;
        }
    }
    Ok(())
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("keelson-atomic-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("folder");
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .expect("list")
                .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
                .collect();
            names.sort();
            names
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).expect("read")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                (
                    PathBuf::from(path),
                    Entry {
                        bytes: text.as_bytes().to_vec(),
                        mode: 0o644,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn a_change_shows_all_new_files_through_one_link() {
        let folder = Folder::new("change");
        let first = payload(&[("a", "1"), ("sub/b", "2"), ("gone", "x")]);
        assert!(write(&folder.0, &first, None, "one").expect("write"));
        assert_eq!(folder.names(), ["..data", "..one", "a", "gone", "sub"]);
        assert_eq!((folder.text("a"), folder.text("sub/b")), ("1".into(), "2".into()));
        let second = payload(&[("a", "3"), ("sub/b", "2"), ("new", "y")]);
        assert!(write(&folder.0, &second, None, "two").expect("write"));
        assert_eq!(folder.names(), ["..data", "..two", "a", "new", "sub"]);
        assert_eq!((folder.text("a"), folder.text("new")), ("3".into(), "y".into()));
        assert_eq!(
            fs::read_link(folder.0.join("a")).expect("link"),
            Path::new("..data/a")
        );
    }

    #[test]
    fn the_same_content_again_changes_nothing() {
        let folder = Folder::new("same");
        let files = payload(&[("a", "1")]);
        assert!(write(&folder.0, &files, None, "one").expect("write"));
        assert!(!write(&folder.0, &files, None, "two").expect("write"));
        assert_eq!(folder.names(), ["..data", "..one", "a"]);
        let mut other_mode = files.clone();
        other_mode.get_mut(Path::new("a")).expect("a").mode = 0o600;
        assert!(
            write(&folder.0, &other_mode, None, "three").expect("write"),
            "the mode counts"
        );
        let mode = fs::metadata(folder.0.join("a"))
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_crash_at_any_point_is_repaired_by_the_next_write() {
        let folder = Folder::new("crash");
        let files = payload(&[("a", "1")]);
        write(&folder.0, &payload(&[("a", "0"), ("old", "0")]), None, "zero").expect("write");
        // Died after making the next link and before the rename; a user link was lost, too.
        symlink("..half", folder.0.join(NEXT)).expect("link");
        fs::remove_file(folder.0.join("a")).expect("remove");
        write(&folder.0, &files, None, "one").expect("write");
        assert_eq!(folder.names(), ["..data", "..one", "a"]);
        // Died after the rename, before the links were made.
        fs::remove_file(folder.0.join("a")).expect("remove");
        assert!(!write(&folder.0, &files, None, "two").expect("write"));
        assert_eq!(folder.text("a"), "1");
        // The content itself was lost.
        fs::remove_dir_all(folder.0.join("..one")).expect("remove");
        assert!(write(&folder.0, &files, None, "three").expect("write"));
        assert_eq!(folder.text("a"), "1");
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let folder = Folder::new("paths");
        for path in ["../x", "/x", "..data", "a/../../x", ""] {
            let error = write(&folder.0, &payload(&[(path, "1")]), None, "one").expect_err(path);
            assert!(matches!(error, Error::Path(_)), "{path}: {error}");
        }
        assert_eq!(folder.names(), [""; 0]);
    }

    #[test]
    fn an_empty_payload_is_an_empty_folder() {
        let folder = Folder::new("empty");
        assert!(write(&folder.0, &Payload::new(), None, "one").expect("write"));
        assert!(!write(&folder.0, &Payload::new(), Some(7), "two").expect("write"));
        assert_eq!(folder.names(), ["..data", "..one"]);
    }
}
