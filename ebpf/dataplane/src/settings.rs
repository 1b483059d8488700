//! What the kernel's settings were before this crate changed them, so that they can be set back.
//!
//! Kept beside the lock: a reboot clears the file and the settings alike. The first value seen is the one that is kept.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    paths::Paths,
    sysctl::{self, RESERVED_PORTS},
};

/// By path below `/proc/sys/net`: the value before, and the value that was set.
type Changes = BTreeMap<String, (String, String)>;

/// Values of everything that may be changed on these devices.
pub struct Before(BTreeMap<PathBuf, String>);

impl Before {
    /// Look.
    pub fn of<'a>(devices: impl Iterator<Item = &'a str>) -> Self {
        let paths = devices.flat_map(sysctl::all_of_device);
        let paths = paths.chain([PathBuf::from(RESERVED_PORTS)]);
        Self(
            paths
                .filter_map(|path| Some((path.clone(), read(&path)?)))
                .collect(),
        )
    }

    /// Keep what is different by now.
    pub fn keep(self, paths: &Paths) -> Result<()> {
        let file = file(paths);
        let mut changes = load(&file)?;
        let known = changes.clone();
        for (path, before) in self.0 {
            let Some(now) = read(&path).filter(|now| *now != before) else {
                continue;
            };
            let name = path.display().to_string();
            let first = changes.get(&name).map_or(before, |(first, _)| first.clone());
            changes.insert(name, (first, now));
        }
        if changes == known {
            return Ok(());
        }
        store(&file, &changes)
    }
}

/// Set everything back; returns what was done, for people. What somebody else changed since stays.
pub fn restore(paths: &Paths) -> Result<Vec<String>> {
    let file = file(paths);
    let mut told = Vec::new();
    for (path, (before, set)) in load(&file)? {
        let Some(now) = read(Path::new(&path)) else {
            // The device is gone, and its settings with it.
            continue;
        };
        let value = if path == RESERVED_PORTS {
            sysctl::without_ports(&now, &before, &set)
        } else if now == set {
            before
        } else {
            told.push(format!(
                "{path} left at {now}: it was changed by somebody else since"
            ));
            continue;
        };
        // An empty list is written as an empty line.
        fs::write(&path, format!("{value}\n")).map_err(Error::on("writing", path.clone()))?;
        told.push(format!("{path} set back to {value:?}"));
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::system("removing", file.display().to_string(), error))
        }
        _ => Ok(told),
    }
}

fn file(paths: &Paths) -> PathBuf {
    paths.run.join("settings-before")
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn load(file: &Path) -> Result<Changes> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Changes::new()),
        text => text.map_err(Error::on("reading", file.display().to_string()))?,
    };
    let line = |line: &str| {
        let mut parts = line.split('\t');
        let (path, before, set) = (parts.next()?, parts.next()?, parts.next()?);
        // Never anything else, whatever the file says.
        path.starts_with("/proc/sys/net/")
            .then(|| (path.to_owned(), (before.to_owned(), set.to_owned())))
    };
    Ok(text.lines().filter_map(line).collect())
}

fn store(file: &Path, changes: &Changes) -> Result<()> {
    let lines = changes
        .iter()
        .map(|(path, (before, set))| format!("{path}\t{before}\t{set}\n"));
    let temporary = file.with_extension("new");
    fs::write(&temporary, lines.collect::<String>())
        .and_then(|()| fs::rename(&temporary, file))
        .map_err(Error::on("writing", file.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_kept_and_nothing_but_settings_of_the_network_is_read_back() {
        let run = std::env::temp_dir().join(format!("keelson-settings-{}", std::process::id()));
        fs::create_dir_all(&run).expect("folder");
        let paths = Paths {
            bpffs: "/b".into(),
            run: run.clone(),
        };
        let changes = Changes::from([
            (
                "/proc/sys/net/ipv4/conf/x/forwarding".to_owned(),
                ("0".to_owned(), "1".to_owned()),
            ),
            ("/etc/passwd".to_owned(), (String::new(), "x".to_owned())),
        ]);
        store(&file(&paths), &changes).expect("written");
        let read = load(&file(&paths)).expect("read");
        assert_eq!(read.len(), 1, "{read:?}");
        assert_eq!(read["/proc/sys/net/ipv4/conf/x/forwarding"].0, "0");
        // No device x: nothing to set back, and the record goes.
        assert_eq!(restore(&paths).expect("restored"), Vec::<String>::new());
        assert!(load(&file(&paths)).expect("read").is_empty());
        fs::remove_dir_all(run).expect("clean");
    }
}
