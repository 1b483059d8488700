//! Where everything is pinned.
//!
//! ```text
//! <bpffs>/keelson/current        → l<layout>-c<contract>-<number>      renamed over, so there is always one
//! <bpffs>/keelson/<generation>/maps/<map>
//! <bpffs>/keelson/<generation>/programs → p-<build>                    renamed over when programs are replaced
//! <bpffs>/keelson/<generation>/p-<build>/<program>
//! <bpffs>/keelson/<generation>/links/<ifindex>-<program>
//! ```
//! Names carry the versions because bpffs holds no ordinary files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use keelson_abi::{ATTACH_CONTRACT, LAYOUT_VERSION};

use crate::error::{Error, Result};

/// The two places this crate works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Folder of the lock; a reboot clears it.
    pub run: PathBuf,
}

impl Paths {
    /// All our pins.
    pub fn root(&self) -> PathBuf {
        self.bpffs.join("keelson")
    }

    /// The link to the live generation.
    pub fn current(&self) -> PathBuf {
        self.root().join("current")
    }

    /// The lock that whoever loads or replaces holds.
    pub fn lock(&self) -> PathBuf {
        self.run.join("dataplane.lock")
    }
}

/// One generation's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its folder, not a link.
    pub path: PathBuf,
    /// Version of all layouts.
    pub layout: u32,
    /// Version of the layouts the plugin depends on.
    pub contract: u32,
    /// Counts generations.
    pub number: u32,
}

impl Generation {
    /// The live generation; `None` if there is none.
    pub fn current(paths: &Paths) -> Result<Option<Self>> {
        let link = paths.current();
        match fs::read_link(&link) {
            Ok(target) => {
                let name = target
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                Self::parse(&paths.root(), &name).map(Some).ok_or_else(|| {
                    Error::system(
                        "reading",
                        link.display().to_string(),
                        io::ErrorKind::InvalidData.into(),
                    )
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::system("reading", link.display().to_string(), error)),
        }
    }

    /// The one after `previous`, of this program's versions.
    pub fn next(paths: &Paths, previous: Option<&Self>) -> Self {
        let number = previous.map_or(1, |generation| generation.number + 1);
        let name = format!("l{LAYOUT_VERSION}-c{ATTACH_CONTRACT}-{number}");
        Self {
            path: paths.root().join(name),
            layout: LAYOUT_VERSION,
            contract: ATTACH_CONTRACT,
            number,
        }
    }

    fn parse(root: &Path, name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let mut number = |prefix| parts.next()?.strip_prefix(prefix)?.parse().ok();
        let (layout, contract, number) = (number("l")?, number("c")?, number("")?);
        Some(Self {
            path: root.join(name),
            layout,
            contract,
            number,
        })
    }

    /// Fails unless this program may use the generation.
    pub fn check_contract(&self) -> Result<()> {
        if self.contract == ATTACH_CONTRACT {
            return Ok(());
        }
        Err(Error::Contract {
            path: self.path.clone(),
            ours: ATTACH_CONTRACT,
            theirs: self.contract,
        })
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join("maps").join(name)
    }

    /// Pin of a program, as it is now.
    pub fn program(&self, name: &str) -> PathBuf {
        self.path.join("programs").join(name)
    }

    /// Pin of a link.
    pub fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links().join(format!("{ifindex}-{program}"))
    }

    /// All links.
    pub fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    /// The build of the programs that are live.
    pub fn build(&self) -> Option<String> {
        let target = fs::read_link(self.path.join("programs")).ok()?;
        Some(target.to_string_lossy().strip_prefix("p-")?.to_owned())
    }

    /// Folder of the programs of a build.
    pub fn build_folder(&self, build: &str) -> PathBuf {
        self.path.join(format!("p-{build}"))
    }
}

/// Point `link` at `target` in one step: there is no moment without it.
pub fn replace_link(link: &Path, target: &str) -> Result<()> {
    let name = link
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = link.with_file_name(format!("{name}-{}", std::process::id()));
    let attempt = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(target, &temporary)?;
        fs::rename(&temporary, link)
    };
    attempt().map_err(Error::on("pointing", format!("{} at {target}", link.display())))
}

/// Remove a folder of pins, whatever is in it; that there is none is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system("removing", path.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Make a folder and those above it.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::on("making the folder", path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_read_back_from_its_name() {
        let paths = Paths {
            bpffs: "/b".into(),
            run: "/r".into(),
        };
        let first = Generation::next(&paths, None);
        let name = first
            .path
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        assert_eq!(Generation::parse(&paths.root(), &name), Some(first.clone()));
        assert_eq!(Generation::next(&paths, Some(&first)).number, 2);
    }

    #[test]
    fn a_name_that_is_none_of_ours_is_no_generation() {
        for name in ["", "l1", "l1-c1", "x1-c1-1", "l1-c1-x"] {
            assert_eq!(Generation::parse(Path::new("/b"), name), None, "{name}");
        }
    }
}
