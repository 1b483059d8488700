//! A client that asks once, and one that keeps its connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
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

/// A connection that is kept between requests, for as long as the server likes.
pub struct Kept {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    /// Connections made so far.
    pub connections: usize,
}

impl Kept {
    /// Not connected yet.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            connections: 0,
        }
    }

    /// Status of a GET. A server that said it would close is asked on a new connection; one that closes without a word fails
    /// the request.
    pub fn get(&mut self, path: &str) -> Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let host = self.address;
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
            .with_context(|| format!("asking {host} on a kept connection"))?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let length = stream.read_line(&mut head);
            let length = length.with_context(|| format!("reading the answer of {host}"))?;
            anyhow::ensure!(length > 0, "{host} closed after {head:?}");
        }
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.trim().to_ascii_lowercase())
        };
        let length = field("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        let copied = std::io::copy(&mut (&mut stream).take(length), &mut std::io::sink())?;
        anyhow::ensure!(copied == length, "{host} sent {copied} of {length} bytes");
        if field("connection").as_deref() != Some("close") {
            self.stream = Some(stream);
        }
        let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        status.with_context(|| format!("{host} answered {head:?}"))
    }

    fn connect(&mut self) -> Result<BufReader<TcpStream>> {
        let address = self.address;
        let stream = TcpStream::connect_timeout(&address, LIMIT)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        self.connections += 1;
        Ok(BufReader::new(stream))
    }
}
