//! The caller's terminal: raw while a command has it, and its size.

use std::{
    fs::File,
    io::{self, IsTerminal},
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// A terminal in raw mode; as it was when dropped.
pub struct Raw {
    terminal: File,
    before: Termios,
}

impl Raw {
    /// Make the terminal of standard input raw; `None` if it is none.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        // A descriptor of its own: whatever happens to standard input, the terminal can be put back.
        let terminal = File::from(stdin.as_fd().try_clone_to_owned()?);
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to do.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Columns and rows of the terminal of standard output.
pub fn size() -> Option<(u32, u32)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize to the address given, which is that of a live local.
    let outcome = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (outcome == 0 && size.ws_col > 0).then_some((u32::from(size.ws_col), u32::from(size.ws_row)))
}
