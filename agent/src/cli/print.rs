//! Standard output, for commands whose reader may have gone (`| head`).

use std::io::{self, ErrorKind, Write};

/// Nobody reads any more: the end of the command, and no failure of it.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct Closed;

/// Write bytes and pass them on at once.
pub fn bytes(data: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("write to standard output")),
    }
}

/// Write text.
pub fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}
