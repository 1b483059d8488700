//! Door to the folder of manifests: which files there are, what they say, and when that changes.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};
use tokio::sync::mpsc;

use crate::yaml::Format;

/// Larger files are refused: a manifest of that size is a mistake.
const SIZE_LIMIT: u64 = 10 << 20;

/// The folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel gives no notice of changes.
    #[error("watch {path}: {source}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: notify::Error,
    },
    /// The file is no manifest.
    #[error("{path} has more than {SIZE_LIMIT} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What happened in the folder. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file is whole: its writer closed it, or it was renamed into place.
    Settled(PathBuf),
    /// Somebody is writing the file: what it says now may be half of what is meant.
    Writing(PathBuf),
    /// The file, or the folder and all below it, is not there any more.
    Gone(PathBuf),
    /// Anything may have changed. After a folder came, it may go on changing unnoticed for a moment.
    Rescan,
}

/// A running watch; it ends when dropped.
pub struct Watch {
    /// What happens, in order.
    pub changes: mpsc::UnboundedReceiver<Change>,
    _guard: Option<notify::RecommendedWatcher>,
}

/// The folder, as the loop needs it.
pub trait Folder: Send + Sync {
    /// Make the folder if it is not there. Called once at the start: a folder that goes away later is
    /// trouble to report, and an empty one in its place would end all that runs.
    fn create(&self) -> Result<(), Error>;
    /// Follow changes from now on.
    fn watch(&self) -> Result<Watch, Error>;
    /// All manifests, relative to the folder. An error means that nothing is known, not that there are none.
    fn list(&self) -> Result<Vec<PathBuf>, Error>;
    /// The text of a manifest; `None` if it is not there.
    fn read(&self, path: &Path) -> Result<Option<String>, Error>;
}

/// The format of a file's text, by its name; `None` = not a manifest.
pub fn format(path: &Path) -> Option<Format> {
    let hidden = path.iter().any(|part| part.to_string_lossy().starts_with('.'));
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if hidden => None,
        Some("yaml" | "yml") => Some(Format::Yaml),
        Some("json") => Some(Format::Json),
        _ => None,
    }
}

/// The folder on disk.
#[derive(Clone, Debug)]
pub struct DiskFolder {
    root: PathBuf,
}

impl DiskFolder {
    /// The folder at `root`; see [`Folder::create`].
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn io(&self, operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = self.root.join(path);
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }

    fn collect(&self, below: &Path, is_root: bool, found: &mut Vec<PathBuf>) -> Result<(), Error> {
        let entries = match fs::read_dir(self.root.join(below)) {
            Ok(entries) => entries,
            // A folder that goes while it is read is gone; the root is never merely gone.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_root => return Ok(()),
            Err(error) => return Err(self.io("list", below)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(self.io("list", below))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let path = below.join(entry.file_name());
            // Links to files are followed, links to folders are not: a file must not be found by two names.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.collect(&path, false, found)?;
            } else if format(&path).is_some()
                && fs::metadata(self.root.join(&path)).is_ok_and(|one| one.is_file())
            {
                found.push(path);
            }
        }
        Ok(())
    }
}

impl Folder for DiskFolder {
    fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.root).map_err(self.io("create folder", Path::new("")))
    }

    fn watch(&self) -> Result<Watch, Error> {
        let (sender, changes) = mpsc::unbounded_channel();
        // inotify reports the paths it was given, links resolved or not; the same root must come off again.
        let root = self.root.clone();
        let report = move |event: notify::Result<notify::Event>| {
            for change in translate(event, &root) {
                // Nobody listens any more: the watch is about to be dropped.
                let _ = sender.send(change);
            }
        };
        let fail = |source| Error::Watch {
            path: self.root.clone(),
            source,
        };
        let mut watcher = notify::recommended_watcher(report).map_err(fail)?;
        watcher
            .watch(&self.root, RecursiveMode::Recursive)
            .map_err(fail)?;
        Ok(Watch {
            changes,
            _guard: Some(watcher),
        })
    }

    fn list(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        self.collect(Path::new(""), true, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path) -> Result<Option<String>, Error> {
        let file = match fs::File::open(self.root.join(path)) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(self.io("open", path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(SIZE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(self.io("read", path))?;
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(Error::TooLarge {
                path: path.to_owned(),
            });
        }
        String::from_utf8(bytes).map(Some).map_err(|error| {
            self.io("read", path)(io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
        })
    }
}

fn translate(event: notify::Result<notify::Event>, root: &Path) -> Vec<Change> {
    let Ok(event) = event else {
        return vec![Change::Rescan];
    };
    if event.need_rescan() {
        return vec![Change::Rescan];
    }
    let relative = |path: &PathBuf| path.strip_prefix(root).map(Path::to_owned).ok();
    let paths = event.paths.iter().filter_map(relative);
    let file = |path: &PathBuf| format(path).is_some();
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            paths.filter(file).map(Change::Settled).collect()
        }
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => Vec::new(),
        EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
            paths.filter(file).map(Change::Writing).collect()
        }
        EventKind::Remove(RemoveKind::File) => paths.filter(file).map(Change::Gone).collect(),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            paths.map(Change::Gone).collect()
        }
        // What was renamed into place may be a folder full of manifests.
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => paths
            .map(|path| {
                if file(&path) {
                    Change::Settled(path)
                } else {
                    Change::Rescan
                }
            })
            .collect(),
        // The same rename once more, after its two halves were told.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => Vec::new(),
        _ => vec![Change::Rescan],
    }
}

#[cfg(test)]
pub mod fake {
    //! A folder in memory whose changes are told by the test, and which fails when told to.

    use std::{
        collections::BTreeMap,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use super::{Change, Error, Folder, Path, PathBuf, Watch, io, mpsc};

    /// Stands for watching in [`MemoryFolder::fail`].
    pub const WATCH: &str = "(watch)";

    #[derive(Default)]
    struct State {
        files: BTreeMap<PathBuf, String>,
        failing: Vec<PathBuf>,
        watcher: Option<mpsc::UnboundedSender<Change>>,
    }

    /// Files in memory.
    #[derive(Default)]
    pub struct MemoryFolder(Mutex<State>);

    impl MemoryFolder {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Put a file there, whole, and tell.
        pub fn write(&self, path: &str, text: &str) {
            self.place(path, text);
            self.tell(Change::Settled(path.into()));
        }

        /// Put a file there and tell nobody.
        pub fn place(&self, path: &str, text: &str) {
            self.state().files.insert(path.into(), text.to_owned());
        }

        /// Remove a file and tell.
        pub fn remove(&self, path: &str) {
            self.state().files.remove(Path::new(path));
            self.tell(Change::Gone(path.into()));
        }

        /// The watch ends, as it does when the folder is exchanged.
        pub fn end_watch(&self) {
            self.state().watcher = None;
        }

        /// Tell of a change.
        pub fn tell(&self, change: Change) {
            if let Some(watcher) = &self.state().watcher {
                let _ = watcher.send(change);
            }
        }

        /// Reading this file fails from now on; the empty path stands for the list.
        pub fn fail(&self, path: &str) {
            self.state().failing.push(path.into());
        }

        /// Everything works again.
        pub fn heal(&self) {
            self.state().failing.clear();
        }

        fn check(&self, path: &Path) -> Result<(), Error> {
            if self.state().failing.iter().any(|failing| failing == path) {
                let source = io::Error::other("told to fail");
                return Err(Error::Io {
                    operation: "read",
                    path: path.to_owned(),
                    source,
                });
            }
            Ok(())
        }
    }

    impl Folder for MemoryFolder {
        fn create(&self) -> Result<(), Error> {
            Ok(())
        }

        fn watch(&self) -> Result<Watch, Error> {
            self.check(Path::new(WATCH))?;
            let (sender, changes) = mpsc::unbounded_channel();
            self.state().watcher = Some(sender);
            Ok(Watch {
                changes,
                _guard: None,
            })
        }

        fn list(&self) -> Result<Vec<PathBuf>, Error> {
            self.check(Path::new(""))?;
            Ok(self.state().files.keys().cloned().collect())
        }

        fn read(&self, path: &Path) -> Result<Option<String>, Error> {
            self.check(path)?;
            Ok(self.state().files.get(path).cloned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doors::temporary::Folder as Temporary;

    /// Changes until the wanted one comes.
    async fn until(watch: &mut Watch, wanted: &Change) -> Vec<Change> {
        let mut seen = Vec::new();
        while seen.last() != Some(wanted) {
            match tokio::time::timeout(Duration::from_secs(10), watch.changes.recv()).await {
                Ok(Some(change)) => seen.push(change),
                other => panic!("{other:?} instead of {wanted:?} after {seen:?}"),
            }
        }
        seen
    }

    #[test]
    fn only_manifests_are_listed_in_folders_below_too() {
        let temporary = Temporary::new("manifests-list");
        let root = temporary.path().join("manifests");
        let folder = DiskFolder::new(&root);
        assert!(
            folder.list().is_err(),
            "a folder that is not there is not an empty one"
        );
        assert!(folder.watch().is_err());
        folder.create().expect("made");
        assert!(folder.list().expect("list").is_empty());
        fs::create_dir_all(root.join("applied/deep")).expect("create");
        fs::create_dir_all(root.join(".git")).expect("create");
        for name in [
            "b.yaml",
            "a.yml",
            "applied/c.json",
            "applied/deep/d.yaml",
            ".e.yaml",
            ".git/f.yaml",
            "g.txt",
            "h.yaml~",
            "yaml",
        ] {
            fs::write(root.join(name), name).expect("write");
        }
        std::os::unix::fs::symlink("..", root.join("applied/loop")).expect("link");
        std::os::unix::fs::symlink("g.txt", root.join("link.yaml")).expect("link");
        std::os::unix::fs::symlink("nowhere", root.join("broken.yaml")).expect("link");
        let found = folder.list().expect("list");
        let expected = [
            "a.yml",
            "applied/c.json",
            "applied/deep/d.yaml",
            "b.yaml",
            "link.yaml",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(
            folder.read(Path::new("b.yaml")).expect("read").as_deref(),
            Some("b.yaml")
        );
        assert_eq!(folder.read(Path::new("none.yaml")).expect("read"), None);
        fs::write(root.join("bad.yaml"), b"\xff\xfe").expect("write");
        assert!(folder.read(Path::new("bad.yaml")).is_err());
        fs::File::create(root.join("big.yaml"))
            .and_then(|file| file.set_len(SIZE_LIMIT + 1))
            .expect("write");
        assert!(matches!(
            folder.read(Path::new("big.yaml")),
            Err(Error::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn a_file_settles_when_it_is_closed_or_renamed_into_place() {
        use std::io::Write;

        let temporary = Temporary::new("manifests-watch");
        let folder = DiskFolder::new(temporary.path());
        let mut watch = folder.watch().expect("watch");
        let mut file = fs::File::create(temporary.path().join("a.yaml")).expect("create");
        file.write_all(b"half").expect("write");
        let before = until(&mut watch, &Change::Writing("a.yaml".into())).await;
        assert!(!before.contains(&Change::Settled("a.yaml".into())));
        drop(file);
        until(&mut watch, &Change::Settled("a.yaml".into())).await;

        fs::write(temporary.path().join(".b.tmp"), "whole").expect("write");
        fs::rename(temporary.path().join(".b.tmp"), temporary.path().join("b.yaml")).expect("rename");
        let seen = until(&mut watch, &Change::Settled("b.yaml".into())).await;
        assert!(!seen.contains(&Change::Writing("b.yaml".into())), "{seen:?}");

        fs::remove_file(temporary.path().join("a.yaml")).expect("remove");
        until(&mut watch, &Change::Gone("a.yaml".into())).await;
        fs::rename(temporary.path().join("b.yaml"), temporary.path().join("b.off")).expect("rename");
        until(&mut watch, &Change::Gone("b.yaml".into())).await;
    }

    #[tokio::test]
    async fn folders_that_come_and_go_are_noticed() {
        let temporary = Temporary::new("manifests-folders");
        let root = temporary.path().join("root");
        let folder = DiskFolder::new(&root);
        folder.create().expect("made");
        let mut watch = folder.watch().expect("watch");
        fs::create_dir(temporary.path().join("ready")).expect("create");
        fs::write(temporary.path().join("ready/a.yaml"), "a").expect("write");
        fs::rename(temporary.path().join("ready"), root.join("applied")).expect("rename");
        until(&mut watch, &Change::Rescan).await;
        // What is written into the new folder is noticed as well, from the moment on that it is watched.
        let settled = Change::Settled("applied/b.yaml".into());
        let noticed = async {
            loop {
                fs::write(root.join("applied/b.yaml"), "b").expect("write");
                let seen = tokio::time::timeout(Duration::from_millis(50), until(&mut watch, &settled)).await;
                if seen.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noticed)
            .await
            .expect("watched soon");
        fs::rename(root.join("applied"), temporary.path().join("away")).expect("rename");
        until(&mut watch, &Change::Gone("applied".into())).await;
    }
}
