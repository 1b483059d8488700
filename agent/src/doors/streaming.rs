//! The runtime's streaming server: a command in a container with live streams.
//!
//! The runtime answers an Exec call with a URL that is good once. The connection there speaks SPDY/3.1 with the subprotocol
//! `v4.channel.k8s.io`, which every runtime's server offers. WebSocket, which they offer too, cannot say that standard
//! input has ended before `v5.channel.k8s.io`, and few servers have that: `exec -i` with a pipe would never end.

pub mod frame;

use std::io;

use http::Uri;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
};

use self::frame::{Frame, Writer};
use super::cri::Streams;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Longer heads of answers are a mistake.
const HEAD_LIMIT: usize = 16 << 10;

const ERROR: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;
const RESIZE: u32 = 9;

/// The streams could not be had, or broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL makes no sense.
    #[error("the runtime's streaming URL {url:?} cannot be used: {why}")]
    Url {
        /// As the runtime gave it.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The connection failed.
    #[error("{operation} the runtime's streaming server at {address}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The server does not want to.
    #[error("the runtime's streaming server at {address} refused: {answer}")]
    Refused {
        /// Where.
        address: String,
        /// Its words.
        answer: String,
    },
    /// The command did not run, or its end is not known.
    #[error("{0}")]
    Command(String),
}

/// What comes out of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output; with a terminal, all output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing follows.
    Exit(i32),
}

/// The way into a command.
pub struct Input {
    writer: Writer<WriteHalf<TcpStream>>,
    address: String,
    stdin: bool,
}

/// The way out of it.
pub struct Outputs {
    reader: ReadHalf<TcpStream>,
    address: String,
    /// Streams that have not ended.
    open: Vec<u32>,
    verdict: Vec<u8>,
}

/// Connect to the URL and open the command's streams.
pub async fn connect(url: &str, streams: Streams) -> Result<(Input, Outputs), Error> {
    let (address, path) = parse(url)?;
    let fail = |operation| {
        let address = address.clone();
        move |source| Error::Io {
            operation,
            address,
            source,
        }
    };
    let mut connection = TcpStream::connect(&address).await.map_err(fail("connect to"))?;
    // Keystrokes are small and must not wait for each other.
    connection.set_nodelay(true).map_err(fail("set up"))?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
    );
    connection
        .write_all(request.as_bytes())
        .await
        .map_err(fail("write to"))?;
    let head = read_head(&mut connection).await.map_err(fail("read from"))?;
    if !head.starts_with("HTTP/1.1 101") {
        // The cause stands in the body.
        let mut body = Vec::new();
        let _ = connection.take(4096).read_to_end(&mut body).await;
        let status = head.lines().next().unwrap_or_default();
        return Err(Error::Refused {
            answer: format!("{status} {}", String::from_utf8_lossy(&body).trim()),
            address,
        });
    }
    let (reader, writer) = tokio::io::split(connection);
    let mut writer = Writer::new(writer);
    let open = open_streams(&mut writer, streams)
        .await
        .map_err(fail("write to"))?;
    let input = Input {
        writer,
        address: address.clone(),
        stdin: streams.stdin,
    };
    let outputs = Outputs {
        reader,
        address,
        open,
        verdict: Vec::new(),
    };
    Ok((input, outputs))
}

/// Open the streams that are wanted; those that the command's side ends are returned.
async fn open_streams(writer: &mut Writer<WriteHalf<TcpStream>>, streams: Streams) -> io::Result<Vec<u32>> {
    let kinds = [
        (ERROR, "error", true),
        (STDIN, "stdin", streams.stdin),
        (STDOUT, "stdout", true),
        // A terminal has one stream for both.
        (STDERR, "stderr", !streams.tty),
        (RESIZE, "resize", streams.tty),
    ];
    let mut open = Vec::new();
    for (stream, kind, _) in kinds.into_iter().filter(|(_, _, wanted)| *wanted) {
        writer.open(stream, &[("streamtype", kind)]).await?;
        if matches!(stream, ERROR | STDOUT | STDERR) {
            open.push(stream);
        }
    }
    Ok(open)
}

fn parse(url: &str) -> Result<(String, String), Error> {
    let fail = |why| Error::Url {
        url: url.to_owned(),
        why,
    };
    let uri: Uri = url.parse().map_err(|_| fail("it is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(fail(
            "only http is spoken; leave x509 streaming (enable_tls_streaming) off in the runtime",
        ));
    }
    let address = uri.authority().ok_or_else(|| fail("it names no server"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let port = address.port_u16().unwrap_or(80);
    Ok((format!("{}:{port}", address.host()), path.to_owned()))
}

/// Read to the empty line, and not one byte further: what follows are frames.
async fn read_head(connection: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its answer has no end",
            ));
        }
        head.push(connection.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl Input {
    fn broken(&self, source: io::Error) -> Error {
        Error::Io {
            operation: "write to",
            address: self.address.clone(),
            source,
        }
    }

    /// Give the command something to read.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), Error> {
        if !self.stdin {
            return Ok(());
        }
        self.writer
            .data(STDIN, data)
            .await
            .map_err(|error| self.broken(error))
    }

    /// There is nothing more to read.
    pub async fn stdin_end(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.stdin) {
            return Ok(());
        }
        self.writer
            .finish(STDIN)
            .await
            .map_err(|error| self.broken(error))
    }

    /// The terminal has this size now.
    pub async fn resize(&mut self, columns: u32, rows: u32) -> Result<(), Error> {
        let text = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        self.writer
            .data(RESIZE, text.as_bytes())
            .await
            .map_err(|error| self.broken(error))
    }

    /// Answer the server that this side lives.
    pub async fn pong(&mut self, id: u32) -> Result<(), Error> {
        self.writer.pong(id).await.map_err(|error| self.broken(error))
    }
}

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// Of the command.
    Output(Output),
    /// To be answered with [`Input::pong`].
    Ping(u32),
}

impl Outputs {
    /// What comes next. Must not be called again after [`Output::Exit`]. Not to be dropped while it waits: frames would be torn.
    pub async fn next(&mut self) -> Result<Came, Error> {
        loop {
            if self.open.is_empty() {
                return verdict(&self.verdict).map(|code| Came::Output(Output::Exit(code)));
            }
            let frame = frame::read(&mut self.reader).await.map_err(|source| Error::Io {
                operation: "read from",
                address: self.address.clone(),
                source,
            })?;
            match frame {
                // All was said, though not every stream was closed.
                None if !self.verdict.is_empty() => self.open.clear(),
                None => {
                    return Err(Error::Command(format!(
                        "the runtime's streaming server at {} closed the connection before it told how the command ended",
                        self.address
                    )));
                }
                Some(Frame::Data { stream, fin, data }) => {
                    self.end(stream, fin);
                    match stream {
                        ERROR => self.verdict.extend(data),
                        STDOUT if !data.is_empty() => return Ok(Came::Output(Output::Stdout(data))),
                        STDERR if !data.is_empty() => return Ok(Came::Output(Output::Stderr(data))),
                        _ => {}
                    }
                }
                Some(Frame::Reply { stream, fin }) => self.end(stream, fin),
                // A command that reads nothing more resets its standard input: no reason to stop listening to it.
                Some(Frame::Reset { stream, .. }) => self.end(stream, true),
                Some(Frame::Ping(id)) => return Ok(Came::Ping(id)),
                Some(Frame::GoAway | Frame::Other) => {}
            }
        }
    }

    fn end(&mut self, stream: u32, fin: bool) {
        if fin {
            self.open.retain(|open| *open != stream);
        }
    }
}

/// The exit code in the server's last word, which is a Kubernetes Status.
fn verdict(text: &[u8]) -> Result<i32, Error> {
    // No word is a good word, in older versions of the protocol.
    if text.is_empty() {
        return Ok(0);
    }
    let said = || Error::Command(String::from_utf8_lossy(text).trim().to_owned());
    let status: Value = serde_json::from_slice(text).map_err(|_| said())?;
    let get = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default();
    if get("status") == "Success" {
        return Ok(0);
    }
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.get("reason").and_then(Value::as_str) == Some("ExitCode"))
        .and_then(|cause| cause.get("message")?.as_str()?.parse().ok());
    match code {
        Some(code) if get("reason") == "NonZeroExitCode" => Ok(code),
        _ if get("message").is_empty() => Err(said()),
        _ => Err(Error::Command(get("message").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_tells_the_exit_code() {
        for (text, expected) in [
            ("", Ok(0)),
            (r#"{"metadata":{},"status":"Success"}"#, Ok(0)),
            (
                r#"{"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode",
                    "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#,
                Ok(42),
            ),
            (
                r#"{"status":"Failure","message":"exec: \"sh\": not found","reason":"InternalError"}"#,
                Err("exec: \"sh\": not found"),
            ),
            ("no json", Err("no json")),
        ] {
            let found = verdict(text.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn only_urls_that_can_be_used_are_used() {
        assert_eq!(
            parse("http://127.0.0.1:4100/exec/abc?x=1").expect("fine"),
            ("127.0.0.1:4100".to_owned(), "/exec/abc?x=1".to_owned())
        );
        assert_eq!(parse("http://[::1]:4100/e").expect("fine").0, "[::1]:4100");
        for url in ["", "/exec", "https://127.0.0.1:1/x", "::"] {
            assert!(parse(url).is_err(), "{url:?}");
        }
    }
}
