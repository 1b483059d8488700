//! One process at a time loads or replaces.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};

/// Loading takes tens of milliseconds; a plugin has ten seconds in all.
const LIMIT: Duration = Duration::from_secs(8);
const STEP: Duration = Duration::from_millis(5);

/// Held until dropped; the kernel lets go when the process dies.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Wait for the lock, within a limit.
    pub fn take(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            crate::paths::make_folder(folder)?;
        }
        let open = || {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
        };
        let mut file = open().map_err(Error::on("opening the lock", path.display().to_string()))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(Self { _file: locked }),
                Err((file, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => file,
                Err((_, errno)) => {
                    return Err(Error::system(
                        "locking",
                        path.display().to_string(),
                        io::Error::from(errno),
                    ));
                }
            };
            if Instant::now() > deadline {
                return Err(Error::Busy(path.to_owned()));
            }
            thread::sleep(STEP);
        }
    }
}
