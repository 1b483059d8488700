//! File locks with an end to the waiting.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::error::{Code, Error, Result};

/// Until when something may be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// This long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Takes the lock if it is free. It ends with the file, or the process: a crash leaves none behind.
pub(super) fn try_lock(file: &File, path: &Path) -> Result<bool> {
    loop {
        // SAFETY: flock takes a descriptor, which `file` keeps open, and no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(Error::file("lock", path, &error)),
        }
    }
}

/// Takes the lock, trying again until the deadline. Holders keep it for microseconds (pool) or milliseconds
/// (attachment), so the pauses begin small.
pub(super) fn lock(file: &File, path: &Path, deadline: Deadline) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    while !try_lock(file, path)? {
        let left = deadline.left();
        if left.is_zero() {
            return Err(Error::new(
                Code::TryAgainLater,
                format!(
                    "lock {}: another process holds it past the time limit",
                    path.display()
                ),
            )
            .details(format!("see who: fuser -v {}", path.display())));
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    Ok(())
}
