//! The programs under test, where cargo put them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// A binary of this workspace, built in the profile of whoever runs now.
pub fn find(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("asking for our own path")?;
    // target/debug/deps/test-… or target/debug/binary
    let folders = own.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    let path = found.with_context(|| {
        format!(
            "{name} is not beside {}: build it with `cargo xtask build`",
            own.display()
        )
    })?;
    ensure!(path.is_absolute(), "{} is not absolute", path.display());
    Ok(path)
}

/// The image tars that `cargo xtask image` makes.
pub fn images() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images"))
}
