//! A client that asks once.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// No answer of a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Status and body of a GET, on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    request(address, "GET", path)
}

/// Status and body of a request without a body.
pub fn request(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream =
        TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("reading the answer of {address}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("{address} answered {text:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Ok((
        status.with_context(|| format!("{address} answered {head:?}"))?,
        body.to_owned(),
    ))
}
