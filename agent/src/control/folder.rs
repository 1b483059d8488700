//! The folder of manifests as the control API sees it: all files read at this moment, and the files that `apply` writes.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use keelson_core::manifest::{
    merge::{Reading, Readings},
    object::Id,
    validate::Rules,
};

use crate::{
    doors::manifests::{DiskFolder, Error, Folder},
    loops::manifests::read_text,
};

/// Folder below that of the manifests which `apply` writes to.
pub const APPLIED: &str = "applied";

/// Read all files.
pub fn read(root: &Path, rules: &Rules) -> Result<Readings, Error> {
    let folder = DiskFolder::new(root);
    let mut readings = Readings::new();
    for path in folder.list()? {
        let reading = match folder.read(&path) {
            Ok(Some(text)) => read_text(&path, &text, rules),
            // Gone since it was listed.
            Ok(None) => continue,
            Err(error) => Reading::Err(vec![error.to_string()]),
        };
        readings.insert(path, reading);
    }
    Ok(readings)
}

/// The file that `apply` keeps an object in.
pub fn file_of(id: &Id) -> PathBuf {
    let kind = id.kind.name().to_ascii_lowercase();
    let name = if id.kind.namespaced() {
        format!("{kind}-{}-{}.yaml", id.key.namespace, id.key.name)
    } else {
        format!("{kind}-{}.yaml", id.key.name)
    };
    Path::new(APPLIED).join(name)
}

/// The file for an object whose own name is taken: `a-b` and `c` spell the same as `a` and `b-c`. No name has an underscore.
pub fn other_file_of(id: &Id) -> PathBuf {
    let kind = id.kind.name().to_ascii_lowercase();
    Path::new(APPLIED).join(format!("{kind}-{}_{}.yaml", id.key.namespace, id.key.name))
}

/// Write a file as a whole: whoever reads it sees the old text or the new one.
pub fn write(root: &Path, file: &Path, text: &str, secret: bool) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let path = root.join(file);
    let folder = path.parent().unwrap_or(root);
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Names with a leading dot are no manifests, so nobody reads a half-written one.
    let temporary = folder.join(format!(".apply-{}-{number}.tmp", std::process::id()));
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if secret { 0o600 } else { 0o644 })
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        // Without this a power failure may leave an empty file under the final name.
        file.sync_data()?;
        fs::rename(&temporary, &path)
    };
    attempt().inspect_err(|_| {
        // The write's error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })
}
