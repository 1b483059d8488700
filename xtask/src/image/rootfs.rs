//! The folder an image is packed from: what every image has, and the ways to fill it.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::run;

/// Folders of every image, with their modes.
const FOLDERS: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/lib", 0o755),
    ("usr/lib64", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// One tree of programs, as Debian has it: packages put files in both.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (
        "etc/group",
        "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n",
    ),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// A folder that is removed in the end.
pub struct Rootfs(PathBuf);

impl Drop for Rootfs {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Rootfs {
    /// An image without programs.
    pub fn new() -> anyhow::Result<Self> {
        run::need_root("making images (their files belong to root)")?;
        let root = Self(run::target().join(format!("rootfs-{}", std::process::id())));
        if root.0.exists() {
            fs::remove_dir_all(&root.0).context("an earlier root folder")?;
        }
        for (folder, mode) in FOLDERS {
            let path = root.0.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        for name in LINKS {
            root.link(name, &format!("usr/{name}"))?;
        }
        for (path, content) in FILES {
            root.file(path, content)?;
        }
        Ok(root)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Write a file.
    pub fn file(&self, path: &str, content: &str) -> anyhow::Result<()> {
        let path = self.place(path)?;
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Make a symbolic link.
    pub fn link(&self, path: &str, target: &str) -> anyhow::Result<()> {
        let path = self.place(path)?;
        symlink(target, &path).with_context(|| format!("link {}", path.display()))
    }

    /// A path in the root, with the folders above it.
    fn place(&self, path: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("replace {}", path.display()))
            }
            _ => Ok(path),
        }
    }

    /// A Debian package's files; its scripts are not run.
    pub fn unpack(&self, package: &Path) -> anyhow::Result<()> {
        // By way of tar, which can be told to leave the links to usr/ alone.
        let mut source = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("start dpkg-deb")?;
        let stream = source.stdout.take().context("dpkg-deb's output")?;
        let unpacked = run::run(
            Command::new("tar")
                .args(["-x", "--keep-directory-symlink", "-C"])
                .arg(&self.0)
                .stdin(stream),
        );
        let status = source.wait().context("dpkg-deb")?;
        unpacked?;
        if !status.success() {
            bail!("dpkg-deb of {} ended with {status}", package.display());
        }
        Ok(())
    }

    /// Busybox and its applets. A program that is there already stays.
    pub fn busybox(&self) -> anyhow::Result<()> {
        let source = busybox()?;
        self.install(&source, "usr/bin/busybox")?;
        let applets = run::output(Command::new(&source).arg("--list"))?;
        for applet in applets.lines() {
            let taken = ["usr/bin", "usr/sbin"]
                .iter()
                .any(|folder| self.0.join(folder).join(applet).symlink_metadata().is_ok());
            if !taken {
                self.link(&format!("usr/bin/{applet}"), "busybox")?;
            }
        }
        Ok(())
    }

    /// A program of this machine, with its libraries.
    pub fn program(&self, program: &Path) -> anyhow::Result<()> {
        let name = program.file_name().context("a program's name")?.to_string_lossy();
        self.install(program, &format!("usr/bin/{name}"))?;
        for library in libraries(program)? {
            let place = library.strip_prefix("/").unwrap_or(&library);
            self.install(&library, &place.to_string_lossy())?;
        }
        Ok(())
    }

    fn install(&self, source: &Path, place: &str) -> anyhow::Result<()> {
        let place = self.place(place)?;
        fs::copy(source, &place)
            .with_context(|| format!("copy {} to {}", source.display(), place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A folder of this machine, as it is.
    pub fn copy(&self, folder: &Path) -> anyhow::Result<()> {
        run::run(
            Command::new("cp")
                .args(["-a", "--keep-directory-symlink"])
                .arg(folder.join("."))
                .arg(&self.0),
        )
    }
}

/// The machine's busybox, which must be static: it is put beside foreign libraries.
pub fn busybox() -> anyhow::Result<PathBuf> {
    let path = run::find("busybox").context("no busybox: `cargo xtask setup` installs busybox-static")?;
    if !libraries(&path)?.is_empty() {
        bail!("{} is not static: install busybox-static", path.display());
    }
    Ok(path)
}

/// The libraries a program loads, the loader included; none for a static one.
pub fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    if !output.status.success() {
        // What ldd says of a static program.
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} needs {}", program.display(), line.trim());
    }
    Ok(paths(&text))
}

/// The absolute paths in what ldd prints.
fn paths(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(
            paths(text),
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(paths("\tstatically linked\n").is_empty());
    }
}
