//! Door: network namespaces. The calling thread enters one only to open a socket there, which stays bound to it, and is
//! back before anything else happens: a thread made for it would cost more than the rest of a CHECK on a busy machine.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process,
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

    /// Runs `work` inside the namespace, on the calling thread, which is back when this returns.
    fn inside<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let own = Path::new("/proc/thread-self/ns/net");
        let own = File::open(own).map_err(|e| Error::file("open the network namespace", own, &e))?;
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::file("enter the network namespace", &self.path, &errno.into()))?;
        let _back = Back { own };
        Ok(work())
    }
}

/// Takes the thread back to the namespace it came from, even if the work panics.
struct Back {
    own: File,
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET) {
            // Whatever ran next would change the pod's network and take it for the node's.
            eprintln!("going back to the node's network namespace: {errno}");
            process::abort();
        }
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
