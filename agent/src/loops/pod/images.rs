//! Images from the folder of archives, and the embedded sandbox image: stored in containerd before a pod asks for them.
//!
//! The folder is watched; an archive is imported when it is new or changed. After every reconnection all of it is
//! looked at again, since containerd may have come back empty. What fails is said once per change of the file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::doors::{
    containerd::{
        archive,
        import::{Error, Importer},
        pause,
    },
    cri::Runtime,
};

/// A file that is being written changes in bursts: import when it was quiet for so long.
const QUIET: Duration = Duration::from_millis(200);
/// CRI learns of an image through an event of containerd's own.
const SEEN_LIMIT: Duration = Duration::from_secs(5);
/// After a failure that is not the archive's fault.
const RETRY: Duration = Duration::from_secs(2);

/// What came of looking at the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// This image is there now.
    Imported {
        /// Its complete name.
        image: String,
        /// The archive.
        from: PathBuf,
    },
    /// This archive could not be imported.
    Failed {
        /// The archive.
        from: PathBuf,
        /// Why.
        message: String,
    },
}

/// An archive's state on disk: what changes when it is written.
type Stamp = (Option<SystemTime>, u64);

/// Imports what is in the folder.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    socket: PathBuf,
    folder: PathBuf,
    seen: BTreeMap<PathBuf, Stamp>,
    reports: mpsc::Sender<Report>,
}

impl Images {
    /// For a folder; nothing is done before [`Self::run`].
    pub fn new(
        runtime: Arc<dyn Runtime>,
        socket: &Path,
        folder: &Path,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            runtime,
            socket: socket.to_owned(),
            folder: folder.to_owned(),
            seen: BTreeMap::new(),
            reports,
        }
    }

    /// Until the receiver of reports is gone. `resumed` fires after every (re)connection to containerd.
    pub async fn run(mut self, mut resumed: mpsc::Receiver<()>) {
        let (changes, mut changed) = mpsc::channel(1);
        let watcher = watch(&self.folder, changes);
        if let Err(error) = &watcher {
            tracing::warn!(folder = %self.folder.display(), %error, "images: the folder cannot be watched");
        }
        let mut again = false;
        loop {
            tokio::select! {
                Some(()) = resumed.recv() => self.seen.clear(),
                Some(()) = changed.recv() => tokio::time::sleep(QUIET).await,
                () = tokio::time::sleep(RETRY), if again => {}
                () = self.reports.closed() => return,
            }
            while changed.try_recv().is_ok() {}
            again = match self.pass().await {
                Ok(()) => false,
                Err(error) => {
                    tracing::debug!(%error, "images: containerd is not ready; tried again");
                    true
                }
            };
        }
    }

    /// Import everything that is new. An error is containerd's, not an archive's.
    async fn pass(&mut self) -> Result<(), Error> {
        let mut importer = Importer::connect(&self.socket).await?;
        match self.runtime.status().await {
            Ok(state) => {
                if let Some(name) = state.sandbox_image {
                    embed(&mut importer, &name).await?;
                }
            }
            Err(error) => tracing::debug!(%error, "images: the sandbox image's name is not known yet"),
        }
        for (path, stamp) in self.archives() {
            if self.seen.get(&path) == Some(&stamp) {
                continue;
            }
            match self.import(&mut importer, &path).await {
                Ok(()) => {}
                Err(error @ (Error::Archive(_) | Error::Refused { .. })) => {
                    tracing::warn!(%error, path = %path.display(), "images: archive not imported");
                    let report = Report::Failed {
                        from: path.clone(),
                        message: error.to_string(),
                    };
                    let _ = self.reports.send(report).await;
                }
                Err(error) => return Err(error),
            }
            self.seen.insert(path, stamp);
        }
        Ok(())
    }

    async fn import(&self, importer: &mut Importer, path: &Path) -> Result<(), Error> {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || archive::open(&owned)).await;
        let (images, content) = opened.map_err(|error| archive::Error::Invalid {
            path: path.to_owned(),
            message: format!("reading it failed: {error}"),
        })??;
        for image in &images {
            if importer.store(&content, image, false).await? {
                tracing::info!(image = image.name, path = %path.display(), "image imported");
            }
            self.wait_until_seen(&image.name).await;
            let report = Report::Imported {
                image: image.name.clone(),
                from: path.to_owned(),
            };
            let _ = self.reports.send(report).await;
        }
        Ok(())
    }

    /// A pod that is told of the image must find it.
    async fn wait_until_seen(&self, name: &str) {
        let seen = async {
            while !matches!(self.runtime.image(name).await, Ok(Some(_)) | Err(_)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(SEEN_LIMIT, seen).await.is_err() {
            tracing::warn!(image = name, "image imported, but the runtime does not list it");
        }
    }

    /// Archives of the folder, the oldest first: of two with one name the newer wins.
    fn archives(&self) -> Vec<(PathBuf, Stamp)> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut archives: Vec<(PathBuf, Stamp)> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
            .filter_map(|path| {
                let metadata = std::fs::metadata(&path).ok()?;
                Some((path, (metadata.modified().ok(), metadata.len())))
            })
            .collect();
        archives.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
        archives
    }
}

/// Store the embedded sandbox image under the name the runtime asks for. One that is there is left alone.
pub async fn embed(importer: &mut Importer, name: &str) -> Result<(), Error> {
    let invalid = |error: std::io::Error| archive::Error::Invalid {
        path: "(embedded)".into(),
        message: format!("building the sandbox image failed: {error}"),
    };
    let Some((image, content)) = pause::image(name).map_err(invalid)? else {
        return Ok(());
    };
    if importer.exists(name).await? {
        return Ok(());
    }
    if importer.store(&content, &image, true).await? {
        tracing::info!(image = name, "embedded sandbox image stored");
    }
    Ok(())
}

fn watch(folder: &Path, changes: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let reading = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(access) if !matches!(access, notify::event::AccessKind::Close(notify::event::AccessMode::Write))));
        if !reading {
            // One waiting message says it all.
            let _ = changes.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
