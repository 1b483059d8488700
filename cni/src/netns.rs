//! Door: network namespaces. Only a thread made for it ever enters one, and it ends there: the process itself never
//! leaves the node's.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::{
    error::{Code, Error, Result},
    netlink::Netlink,
};

/// An open network namespace.
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens the namespace at `path`; `None` when nothing is there, or it is no namespace any more (a bind mount that
    /// was unmounted leaves an ordinary file).
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)) => {
                return Ok(None);
            }
            Err(e) => return Err(Error::file("open the network namespace", path, &e)),
        };
        Ok(is_network(&file).then(|| Self {
            file,
            path: path.to_owned(),
        }))
    }

    /// Opens the namespace at `path`, or says why it cannot be used.
    pub fn require(path: &Path) -> Result<Self> {
        Self::open(path)?.ok_or_else(|| {
            let why = if path.exists() {
                "is not a network namespace"
            } else {
                "does not exist"
            };
            Error::new(Code::InvalidNetns, format!("CNI_NETNS {}: {why}", path.display()))
        })
    }

    /// Whether it is the namespace that the process is in.
    pub fn is_own(&self) -> Result<bool> {
        let own = Path::new("/proc/self/ns/net");
        let own = own.metadata().map_err(|e| Error::file("inspect", own, &e))?;
        let this = self
            .file
            .metadata()
            .map_err(|e| Error::file("inspect", &self.path, &e))?;
        Ok((own.dev(), own.ino()) == (this.dev(), this.ino()))
    }

    /// Its descriptor, for requests that put a link into it.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// A netlink socket that lives in this namespace.
    pub fn netlink(&self) -> Result<Netlink> {
        self.inside(|| Netlink::open("the pod"))?
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET);
        thread::scope(|scope| {
            let outcome = scope.spawn(|| enter().map(|()| work())).join();
            match outcome {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(errno)) => Err(Error::file(
                    "enter the network namespace",
                    &self.path,
                    &errno.into(),
                )),
                Err(_) => Err(Error::new(
                    Code::Io,
                    format!("work inside {} panicked", self.path.display()),
                )),
            }
        })
    }
}

fn is_network(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this ioctl takes no argument; on anything but a namespace file it fails with ENOTTY.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// The boot clock, in milliseconds: it goes on while the machine sleeps, and nobody sets it.
pub fn boot_clock_ms() -> Result<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to a place that holds one.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return Err(Error::new(
            Code::Io,
            format!("read the boot clock: {}", io::Error::last_os_error()),
        ));
    }
    Ok(now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000)
}
