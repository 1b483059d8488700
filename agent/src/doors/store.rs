//! Door to what must survive a restart: one JSON file per record below `<state>/store/<kind>/`.
//!
//! A record is replaced as a whole (temporary file, data synced, renamed), so a reader sees the old or the new one. A record
//! that cannot be read costs that record only; whoever asked for it is told and goes on without it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Kinds of records; each is a folder.
pub mod kind {
    /// Addresses and ports given to Services, by Service UID.
    pub const SERVICES: &str = "services";
    /// Pods that a Deployment made, by pod UID.
    pub const PODS: &str = "pods";
    /// Generations of a Deployment, by its UID.
    pub const DEPLOYMENTS: &str = "deployments";
    /// What a pod's worker must know after a restart, by pod UID.
    pub const POD_STATES: &str = "pod-states";
    /// The last good objects of a manifest file, by its path.
    pub const MANIFESTS: &str = "manifests";
    /// The node's own record.
    pub const NODE: &str = "node";
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{operation} record {kind}/{id} at {path}: {source}")]
    Io {
        /// `read`, `write`, `remove` or `list`.
        operation: &'static str,
        /// Kind of record.
        kind: String,
        /// Which one; `*` = all.
        id: String,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else than the record.
    #[error(
        "record {kind}/{id} at {path} is damaged ({cause}); it is treated as absent, remove the file to silence this"
    )]
    Damaged {
        /// Kind of record.
        kind: String,
        /// Which one, as far as the file name tells.
        id: String,
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
}

/// A record's id and its value, or why it cannot be read.
pub type Record = (String, Result<Value, Error>);

/// Records by kind and id. Calls block for as long as a small file takes.
pub trait Store: Send + Sync {
    /// One record; `None` if there is none.
    fn get(&self, kind: &str, id: &str) -> Result<Option<Value>, Error>;
    /// Write a record, replacing an older one as a whole.
    fn put(&self, kind: &str, id: &str, value: &Value) -> Result<(), Error>;
    /// Remove a record; that there is none is fine.
    fn remove(&self, kind: &str, id: &str) -> Result<(), Error>;
    /// All records of a kind, by id. A damaged record is an error of its own, not of the call.
    fn list(&self, kind: &str) -> Result<Vec<Record>, Error>;
}

/// The store on disk.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
}

/// What a file holds: the id too, since file names are shortened.
#[derive(Serialize, Deserialize)]
struct Content<V> {
    id: String,
    value: V,
}

impl FileStore {
    /// The store below the node's state folder. Folders are made when something is written.
    pub fn new(state: &Path) -> Self {
        Self {
            folder: state.join("store"),
        }
    }

    fn path(&self, kind: &str, id: &str) -> PathBuf {
        self.folder.join(kind).join(file_name(id))
    }
}

impl Store for FileStore {
    fn get(&self, kind: &str, id: &str) -> Result<Option<Value>, Error> {
        let path = self.path(kind, id);
        match fs::read(&path) {
            Ok(bytes) => decode(kind, id, &path, &bytes).map(|content| Some(content.value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", kind, id, &path)(error)),
        }
    }

    fn put(&self, kind: &str, id: &str, value: &Value) -> Result<(), Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = self.path(kind, id);
        let folder = self.folder.join(kind);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{}-{number}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let content = serde_json::to_vec(&Content {
                id: id.to_owned(),
                value,
            })?;
            // Secrets are among the records.
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&content)?;
            // Without this a power failure may leave an empty file under the final name.
            file.sync_data()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            // The leftover is harmless (it starts with a dot), so the write's error is the one to tell.
            let _ = fs::remove_file(&temporary);
            io_error("write", kind, id, &path)(error)
        })
    }

    fn remove(&self, kind: &str, id: &str) -> Result<(), Error> {
        let path = self.path(kind, id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", kind, id, &path)(error)),
        }
    }

    fn list(&self, kind: &str) -> Result<Vec<Record>, Error> {
        let folder = self.folder.join(kind);
        let fail = |error| io_error("list", kind, "*", &folder)(error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let Some(stem) = name.strip_suffix(".json").filter(|stem| !stem.starts_with('.')) else {
                continue;
            };
            let content = fs::read(&path)
                .map_err(io_error("read", kind, stem, &path))
                .and_then(|bytes| decode(kind, stem, &path, &bytes));
            records.push(match content {
                Ok(content) => (content.id, Ok(content.value)),
                Err(error) => (stem.to_owned(), Err(error)),
            });
        }
        records.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(records)
    }
}

fn decode(kind: &str, id: &str, path: &Path, bytes: &[u8]) -> Result<Content<Value>, Error> {
    let damaged = |cause: String| Error::Damaged {
        kind: kind.to_owned(),
        id: id.to_owned(),
        path: path.to_owned(),
        cause,
    };
    let content: Content<Value> =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let expected = file_name(&content.id);
    if path.file_name().is_some_and(|name| name != expected.as_str()) {
        return Err(damaged(format!("it is the record of {:?}", content.id)));
    }
    Ok(content)
}

fn io_error(operation: &'static str, kind: &str, id: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let (kind, id, path) = (kind.to_owned(), id.to_owned(), path.to_owned());
    move |source| Error::Io {
        operation,
        kind,
        id,
        path,
        source,
    }
}

/// A file name that no id can lead out of the folder with, short enough for every file system, different for every id.
fn file_name(id: &str) -> String {
    use std::fmt::Write as _;

    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut name = String::new();
    for (index, byte) in id.bytes().enumerate() {
        if plain(byte) || (byte == b'.' && index > 0) {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    if name.len() > 200 {
        let hash = Sha256::digest(id.as_bytes());
        name.truncate(120);
        name.push('+');
        for byte in &hash[..16] {
            let _ = write!(name, "{byte:02x}");
        }
    }
    name + ".json"
}

#[cfg(test)]
pub mod fake {
    //! A store in memory that fails when told to.

    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    use super::{Error, Record, Store, Value, io, io_error};

    /// Records in memory.
    #[derive(Default)]
    pub struct MemoryStore {
        records: Mutex<BTreeMap<(String, String), Value>>,
        failing: Mutex<Vec<(&'static str, String)>>,
    }

    impl MemoryStore {
        /// From now on `operation` (`read`, `write`, `remove`, `list`) on records of `kind` fails.
        pub fn fail(&self, operation: &'static str, kind: &str) {
            self.failing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((operation, kind.to_owned()));
        }

        /// Everything works again.
        pub fn heal(&self) {
            self.failing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }

        fn check(&self, operation: &'static str, kind: &str, id: &str) -> Result<(), Error> {
            let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            if failing
                .iter()
                .any(|(failed, of)| *failed == operation && of == kind)
            {
                let error = io::Error::other("told to fail");
                return Err(io_error(operation, kind, id, "fake".as_ref())(error));
            }
            Ok(())
        }

        fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Value>> {
            self.records.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Store for MemoryStore {
        fn get(&self, kind: &str, id: &str) -> Result<Option<Value>, Error> {
            self.check("read", kind, id)?;
            Ok(self.records().get(&(kind.to_owned(), id.to_owned())).cloned())
        }

        fn put(&self, kind: &str, id: &str, value: &Value) -> Result<(), Error> {
            self.check("write", kind, id)?;
            self.records()
                .insert((kind.to_owned(), id.to_owned()), value.clone());
            Ok(())
        }

        fn remove(&self, kind: &str, id: &str) -> Result<(), Error> {
            self.check("remove", kind, id)?;
            self.records().remove(&(kind.to_owned(), id.to_owned()));
            Ok(())
        }

        fn list(&self, kind: &str) -> Result<Vec<Record>, Error> {
            self.check("list", kind, "*")?;
            let records = self.records();
            let of_kind = records.iter().filter(|((of, _), _)| of == kind);
            Ok(of_kind
                .map(|((_, id), value)| (id.clone(), Ok(value.clone())))
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;
    use crate::doors::temporary::Folder;

    #[test]
    fn a_record_is_read_back_until_it_is_removed() {
        let folder = Folder::new("store-roundtrip");
        let store = FileStore::new(folder.path());
        assert!(store.get("pods", "u1").expect("read").is_none());
        assert!(store.list("pods").expect("list").is_empty());
        store.put("pods", "u1", &json!({"a": 1})).expect("write");
        store.put("pods", "u1", &json!({"a": 2})).expect("write");
        store.put("services", "u1", &json!(3)).expect("write");
        let other = FileStore::new(folder.path());
        assert_eq!(other.get("pods", "u1").expect("read"), Some(json!({"a": 2})));
        assert_eq!(other.list("pods").expect("list").len(), 1);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(
            mode(&folder.path().join("store/pods/u1.json")),
            0o600,
            "nobody else reads it"
        );
        assert_eq!(mode(&folder.path().join("store/pods")), 0o700);
        other.remove("pods", "u1").expect("remove");
        other.remove("pods", "u1").expect("twice is fine");
        assert!(store.get("pods", "u1").expect("read").is_none());
        assert_eq!(store.get("services", "u1").expect("read"), Some(json!(3)));
    }

    #[test]
    fn no_id_leads_out_of_the_folder_or_meets_another() {
        let folder = Folder::new("store-ids");
        let store = FileStore::new(folder.path());
        let long = "x".repeat(3000);
        let ids = [
            "../../etc/x",
            "..",
            ".",
            ".hidden",
            "a/b",
            "a%2fb",
            "ü",
            "",
            &long,
            &format!("{long}y"),
        ];
        for id in ids {
            store.put("manifests", id, &json!(id)).expect("write");
        }
        for id in ids {
            assert_eq!(store.get("manifests", id).expect("read"), Some(json!(id)));
        }
        let mut listed: Vec<String> = store
            .list("manifests")
            .expect("list")
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        listed.sort();
        let mut expected: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        expected.sort();
        assert_eq!(listed, expected);
        assert_eq!(
            fs::read_dir(folder.path()).expect("read").count(),
            1,
            "nothing beside the store"
        );
    }

    #[test]
    fn a_damaged_record_costs_only_itself() {
        let folder = Folder::new("store-damaged");
        let store = FileStore::new(folder.path());
        for id in ["a", "b", "c"] {
            store.put("pods", id, &json!(id)).expect("write");
        }
        let place = folder.path().join("store/pods");
        fs::write(place.join("b.json"), b"{\"id\": \"b\", \"val").expect("write");
        fs::copy(place.join("a.json"), place.join("c.json")).expect("copy");
        fs::write(place.join(".1-2.tmp"), b"half").expect("write");
        let listed = store.list("pods").expect("list");
        let good: Vec<&str> = listed
            .iter()
            .filter(|(_, value)| value.is_ok())
            .map(|(id, _)| id.as_str())
            .collect();
        assert_eq!((good, listed.len()), (vec!["a"], 3));
        let error = store.get("pods", "b").expect_err("damaged").to_string();
        assert!(error.contains("pods/b") && error.contains("damaged"), "{error}");
        store.put("pods", "b", &json!("new")).expect("write");
        assert_eq!(store.get("pods", "b").expect("read"), Some(json!("new")));
    }

    #[test]
    fn a_failed_write_keeps_the_old_record() {
        let folder = Folder::new("store-fail");
        let store = FileStore::new(folder.path());
        store.put("pods", "a", &json!(1)).expect("write");
        // A folder in the record's place cannot be replaced by a file.
        let place = folder.path().join("store/pods");
        fs::create_dir(place.join("b.json")).expect("create");
        let error = store
            .put("pods", "b", &json!(2))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("write record pods/b"), "{error}");
        assert_eq!(fs::read_dir(&place).expect("read").count(), 2, "no leftovers");
        assert_eq!(store.get("pods", "a").expect("read"), Some(json!(1)));
    }
}
