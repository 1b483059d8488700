//! SPDY/3.1 frames, as far as streams of a command need them.
//!
//! Header blocks are one zlib stream per direction. Ours consists of stored blocks, which every inflater reads and no
//! dictionary changes; theirs is not needed, since answers are told apart by stream, so it is never inflated.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// First two bytes of a control frame: the control bit and the version.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
/// This frame is the stream's last in this direction.
const FIN: u8 = 1;
/// Data is cut into frames of at most this.
const DATA_LIMIT: usize = 32 << 10;
/// zlib: deflate with the smallest window, no dictionary.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];

/// An empty stored block. Inflaters hand out what they have when they meet one, and only then: without it the server would wait
/// for the next header block before it looks at this one.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// A frame from the other side.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Whether nothing follows.
        fin: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The stream was accepted.
    Reply {
        /// The stream.
        stream: u32,
        /// Whether nothing follows.
        fin: bool,
    },
    /// The stream ends with an error.
    Reset {
        /// The stream.
        stream: u32,
        /// SPDY's status code.
        status: u32,
    },
    /// To be sent back.
    Ping(u32),
    /// The other side is about to leave.
    GoAway,
    /// Anything else: settings, windows.
    Other,
}

/// Read one frame; `None` at the end of the connection.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Frame>> {
    let mut head = [0; 8];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [a, b, c, d, flags, x, y, z] = head;
    let length = u32::from_be_bytes([0, x, y, z]) as usize;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    let fin = flags & FIN != 0;
    if a & 0x80 == 0 {
        return Ok(Some(Frame::Data {
            stream: u32::from_be_bytes([a, b, c, d]),
            fin,
            data: body,
        }));
    }
    if u16::from_be_bytes([a, b]) != CONTROL {
        return Err(malformed("not SPDY/3.1"));
    }
    let word = |index: usize| -> io::Result<u32> {
        let bytes = body
            .get(index * 4..index * 4 + 4)
            .ok_or_else(|| malformed("a frame is too short"))?;
        Ok(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    };
    Ok(Some(match u16::from_be_bytes([c, d]) {
        SYN_REPLY => Frame::Reply {
            stream: word(0)? & 0x7fff_ffff,
            fin,
        },
        RST_STREAM => Frame::Reset {
            stream: word(0)? & 0x7fff_ffff,
            status: word(1)?,
        },
        PING => Frame::Ping(word(0)?),
        GO_AWAY => Frame::GoAway,
        _ => Frame::Other,
    }))
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes frames.
pub struct Writer<W> {
    inner: W,
    /// Whether the zlib stream of header blocks has begun.
    begun: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// On a connection that was upgraded.
    pub fn new(inner: W) -> Self {
        Self { inner, begun: false }
    }

    /// Open a stream; ids are odd and rise.
    pub async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(stream.to_be_bytes());
        // No parent, no priority, no credentials.
        body.extend([0; 6]);
        if !std::mem::replace(&mut self.begun, true) {
            body.extend(ZLIB_HEADER);
        }
        let block = header_block(headers)?;
        let length = u16::try_from(block.len()).map_err(|_| malformed("headers are too long"))?;
        body.push(0);
        body.extend(length.to_le_bytes());
        body.extend((!length).to_le_bytes());
        body.extend(block);
        body.extend(FLUSH);
        self.control(SYN_STREAM, 0, &body).await
    }

    /// Send bytes of a stream.
    pub async fn data(&mut self, stream: u32, data: &[u8]) -> io::Result<()> {
        for chunk in data.chunks(DATA_LIMIT) {
            self.data_frame(stream, 0, chunk).await?;
        }
        self.inner.flush().await
    }

    /// Nothing more comes on a stream.
    pub async fn finish(&mut self, stream: u32) -> io::Result<()> {
        self.data_frame(stream, FIN, &[]).await?;
        self.inner.flush().await
    }

    /// Answer a ping.
    pub async fn pong(&mut self, id: u32) -> io::Result<()> {
        self.control(PING, 0, &id.to_be_bytes()).await
    }

    async fn data_frame(&mut self, stream: u32, flags: u8, data: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + data.len());
        frame.extend(stream.to_be_bytes());
        frame.extend(flags_and_length(flags, data.len())?);
        frame.extend(data);
        self.inner.write_all(&frame).await
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + body.len());
        frame.extend(CONTROL.to_be_bytes());
        frame.extend(kind.to_be_bytes());
        frame.extend(flags_and_length(flags, body.len())?);
        frame.extend(body);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }
}

fn flags_and_length(flags: u8, length: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length < 1 << 24)
        .ok_or_else(|| malformed("a frame is too long"))?;
    let [_, a, b, c] = length.to_be_bytes();
    Ok([flags, a, b, c])
}

fn header_block(headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    let size = |length: usize| u32::try_from(length).map_err(|_| malformed("headers are too long"));
    let mut block = Vec::from(size(headers.len())?.to_be_bytes());
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(size(text.len())?.to_be_bytes());
        block.extend(text.as_bytes());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parsed(bytes: &[u8]) -> Vec<io::Result<Option<Frame>>> {
        let mut reader = bytes;
        let mut found = Vec::new();
        loop {
            let one = read(&mut reader).await;
            let last = !matches!(one, Ok(Some(_)));
            found.push(one);
            if last {
                return found;
            }
        }
    }

    #[tokio::test]
    async fn frames_are_read_whatever_their_kind() {
        let bytes = [
            &[0x80, 3, 0, 2, 1, 0, 0, 4, 0, 0, 0, 5][..],
            &[0x80, 3, 0, 4, 0, 0, 0, 2, 9, 9],
            &[0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i'],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7],
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 2],
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 2],
        ]
        .concat();
        let frames: Vec<Option<Frame>> = parsed(&bytes)
            .await
            .into_iter()
            .map(|one| one.expect("fine"))
            .collect();
        let data = Frame::Data {
            stream: 5,
            fin: true,
            data: b"hi".to_vec(),
        };
        let reply = Frame::Reply { stream: 5, fin: true };
        let reset = Frame::Reset { stream: 5, status: 2 };
        let expected = [
            Some(reply),
            Some(Frame::Other),
            Some(data),
            Some(Frame::Ping(7)),
            Some(reset),
            Some(Frame::GoAway),
            None,
        ];
        assert_eq!(frames, expected);
    }

    #[tokio::test]
    async fn a_cut_or_foreign_frame_is_an_error() {
        for bytes in [
            &[0, 0, 0, 5, 0, 0, 0, 9, b'x'][..],
            &[0x80, 2, 0, 2, 0, 0, 0, 0],
            &[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0],
        ] {
            let last = parsed(bytes).await.pop().expect("one");
            assert!(last.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        let long = vec![7; DATA_LIMIT + 1];
        writer.data(3, &long).await.expect("write");
        writer.finish(3).await.expect("write");
        writer.pong(9).await.expect("write");
        let mut found = Vec::new();
        let mut ends = 0;
        for frame in parsed(&bytes).await {
            match frame.expect("fine") {
                Some(Frame::Data { stream: 3, fin, data }) => {
                    found.extend(data);
                    ends += i32::from(fin);
                }
                Some(Frame::Ping(9)) | None => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((found, ends), (long, 1));
    }

    #[tokio::test]
    async fn the_header_blocks_are_one_zlib_stream_of_stored_blocks() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.open(1, &[("streamtype", "error")]).await.expect("write");
        writer.open(3, &[("streamtype", "stdin")]).await.expect("write");
        let block = [
            &[0, 0, 0, 1, 0, 0, 0, 10][..],
            b"streamtype",
            &[0, 0, 0, 5],
            b"error",
        ]
        .concat();
        let first = [
            &[
                0x80, 3, 0, 1, 0, 0, 0, 49, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 1, 0, 27, 0, 228, 255,
            ][..],
            &block,
            &FLUSH,
        ]
        .concat();
        assert_eq!(bytes[..first.len()], first);
        // No second zlib header.
        assert_eq!(bytes[first.len()..][18..23], [0, 27, 0, 228, 255]);
    }
}
