//! Child processes, and the few folders everything agrees on.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    // This crate is one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // Cargo takes a relative one from where it is called.
        Some(folder) => std::env::current_dir()
            .unwrap_or_else(|_| workspace())
            .join(folder),
        None => workspace().join("target"),
    }
}

/// Ours below the user's cache directory: what is expensive to make and does not depend on this checkout.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for a cache")?
        .join("keelson"))
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Run to the end, its output ours; fails with the command's own words.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Run to the end and return what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command runs and succeeds; its output goes nowhere.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this is root.
pub fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Fail unless this is root, saying what for.
pub fn need_root(purpose: &str) -> Result<()> {
    ensure!(
        is_root()?,
        "{purpose}: that needs root; call it as root, e.g. `sudo -E cargo xtask …`"
    );
    Ok(())
}

/// Announce a step.
pub fn step(text: impl AsRef<str>) {
    println!("-- {}", text.as_ref());
}

/// Where a program is, on the search path or where administrators' programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Write a file as a whole, and only if that changes it: builds look at its time. Returns whether it did.
pub fn replace(path: &Path, content: &[u8]) -> Result<bool> {
    match fs::read(path) {
        Ok(old) if old == content => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, content).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("renaming to {}", path.display()))?;
    Ok(true)
}
