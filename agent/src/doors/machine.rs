//! Door to the machine: what it is, and how much of it is in use.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use keelson_core::node::{Machine, Usage};
use nix::{
    sys::{statvfs::statvfs, utsname::uname},
    unistd::{SysconfVar, sysconf},
};

/// A file of the kernel could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something else than expected.
    #[error("{path} does not say {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    Call {
        /// The call.
        call: &'static str,
        /// Why.
        source: nix::Error,
    },
}

/// The machine, as the node loop needs it.
pub trait Host: Send + Sync {
    /// What it is.
    fn machine(&self) -> Result<Machine, Error>;
    /// How much is in use; `disk` = the file system to look at.
    fn usage(&self, disk: &Path) -> Result<Usage, Error>;
}

/// The machine the agent runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn machine(&self) -> Result<Machine, Error> {
        let system = uname().map_err(|source| Error::Call {
            call: "uname",
            source,
        })?;
        let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).map_err(|source| Error::Call {
            call: "sysconf",
            source,
        })?;
        let memory = read("/proc/meminfo")?;
        Ok(Machine {
            host_name: system.nodename().to_string_lossy().into_owned(),
            cpus: cpus.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1),
            memory: meminfo(&memory, "MemTotal")?,
            swap: meminfo(&memory, "SwapTotal")?,
            // Containers and small systems have no such files; nothing depends on them.
            machine_id: first_line("/etc/machine-id"),
            system_uuid: first_line("/sys/class/dmi/id/product_uuid"),
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
            kernel: system.release().to_string_lossy().into_owned(),
            os_image: os_image(&read("/etc/os-release").unwrap_or_default()),
            architecture: go_architecture(&system.machine().to_string_lossy()).to_owned(),
        })
    }

    fn usage(&self, disk: &Path) -> Result<Usage, Error> {
        // Before the first pod its folder may not be there; what is above it lies on the same file system or becomes it.
        let there = disk
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let space = statvfs(there).map_err(|source| Error::Call {
            call: "statvfs",
            source,
        })?;
        // The type differs between architectures.
        let block: u64 = space.fragment_size();
        Ok(Usage {
            memory_available: meminfo(&read("/proc/meminfo")?, "MemAvailable")?,
            disk: space.blocks() * block,
            disk_available: space.blocks_available() * block,
            pids: processes(&read("/proc/loadavg")?)?,
            pids_most: number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?),
        })
    }
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

fn first_line(path: &str) -> String {
    read(path)
        .ok()
        .and_then(|text| text.lines().next().map(str::trim).map(str::to_owned))
        .unwrap_or_default()
}

fn number(path: &'static str) -> Result<u64, Error> {
    read(path)?.trim().parse().map_err(|_| Error::Content {
        path: path.into(),
        what: "a number",
    })
}

/// A line such as `MemTotal:  123 kB`, in bytes.
fn meminfo(text: &str, name: &'static str) -> Result<u64, Error> {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kibibytes| kibibytes * 1024)
        .ok_or(Error::Content {
            path: "/proc/meminfo".into(),
            what: name,
        })
}

/// `0.00 0.01 0.05 1/123 4567`: 123 processes and threads.
fn processes(text: &str) -> Result<u64, Error> {
    text.split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/')?.1.parse().ok())
        .ok_or(Error::Content {
            path: "/proc/loadavg".into(),
            what: "how many processes there are",
        })
}

fn os_image(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The kernel's name for an architecture in the words that images and Kubernetes use.
fn go_architecture(kernel: &str) -> &str {
    match kernel {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i386" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let machine = ThisHost.machine().expect("read");
        assert!(
            machine.cpus >= 1 && machine.memory > 1 << 20 && !machine.kernel.is_empty(),
            "{machine:?}"
        );
        assert!(!machine.boot_id.is_empty() && !machine.host_name.is_empty());
        let usage = ThisHost.usage(Path::new("/nonexistent/folder")).expect("read");
        assert!(
            usage.memory_available <= machine.memory && usage.disk_available <= usage.disk,
            "{usage:?}"
        );
        assert!(0 < usage.pids && usage.pids < usage.pids_most, "{usage:?}");
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let text = "MemTotal:       24689764 kB\nMemAvailable:      100 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo(text, "MemTotal").expect("there"), 24_689_764 * 1024);
        assert_eq!(meminfo(text, "MemAvailable").expect("there"), 102_400);
        assert!(meminfo(text, "SwapTotal").is_err() && meminfo(text, "HugePages_Total").is_err());
        assert_eq!(processes("0.00 0.01 0.05 1/123 4567\n").expect("there"), 123);
        assert!(processes("0.00 0.01").is_err());
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Some Linux 1\"\n"), "Some Linux 1");
        assert_eq!(
            (go_architecture("x86_64"), go_architecture("riscv64")),
            ("amd64", "riscv64")
        );
    }
}
