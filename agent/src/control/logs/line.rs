//! Lines of container logs: `2026-01-02T03:04:05.678901234Z stdout F message`. `P` marks a part of a line that was too long for the
//! runtime; the parts up to and with the `F` are one line.

use jiff::Timestamp;

/// A part of a line longer than this is passed on before its end is known.
const PART_LIMIT: usize = 1 << 20;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One raw line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// As written.
    pub time: &'a str,
    /// Where to.
    pub stream: Stream,
    /// Whether the line ends here.
    pub full: bool,
    /// Without the line's end.
    pub message: &'a [u8],
}

/// Understand a raw line without its line feed; `None` if it is none.
pub fn parse(line: &[u8]) -> Option<Raw<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are parted by colons; the first says whether the line ends.
    let full = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    // An empty message may come without the space before it.
    let message = parts.next().unwrap_or_default();
    time.starts_with(|c: char| c.is_ascii_digit()).then_some(Raw {
        time,
        stream,
        full,
        message,
    })
}

/// What is to be written for the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Format {
    /// The time before each line.
    pub timestamps: bool,
    /// Only lines written after this.
    pub since: Option<Timestamp>,
}

/// A line of which the end has not come yet.
#[derive(Debug, Default)]
struct Part {
    /// What has come, its prefix included.
    text: Vec<u8>,
    /// Whether some of it was passed on already.
    begun: bool,
}

/// Puts the parts of lines together, per stream, and writes whole lines.
#[derive(Debug, Default)]
pub struct Joiner {
    format: Format,
    stdout: Part,
    stderr: Part,
}

impl Joiner {
    /// A joiner that writes in this format.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            ..Self::default()
        }
    }

    /// Take a raw line; what is whole now is added to `out`.
    pub fn push(&mut self, raw: &Raw<'_>, out: &mut Vec<u8>) {
        if let Some(since) = self.format.since
            && raw.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        let part = match raw.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if part.text.is_empty() && !part.begun && self.format.timestamps {
            part.text.extend_from_slice(raw.time.as_bytes());
            part.text.push(b' ');
        }
        part.text.extend_from_slice(raw.message);
        if raw.full {
            part.text.push(b'\n');
        }
        if raw.full || part.text.len() > PART_LIMIT {
            out.append(&mut part.text);
            part.begun = !raw.full;
        }
    }

    /// The log ends here: what has come of lines without end is added to `out`.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        for part in [&mut self.stdout, &mut self.stderr] {
            if !part.text.is_empty() || part.begun {
                out.append(&mut part.text);
                out.push(b'\n');
            }
            part.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    #[test]
    fn raw_lines_are_understood_or_left_out() {
        let full = |message: &'static [u8]| Raw {
            time: TIME,
            stream: Stream::Stdout,
            full: true,
            message,
        };
        for (text, expected) in [
            (
                format!("{TIME} stdout F hello  world "),
                Some(full(b"hello  world ")),
            ),
            (format!("{TIME} stdout F "), Some(full(b""))),
            (format!("{TIME} stdout F"), Some(full(b""))),
            (format!("{TIME} stdout F:x:y a"), Some(full(b"a"))),
            (
                format!("{TIME} stderr P part"),
                Some(Raw {
                    time: TIME,
                    stream: Stream::Stderr,
                    full: false,
                    message: b"part",
                }),
            ),
            (format!("{TIME} stdin F a"), None),
            (format!("{TIME} stdout X a"), None),
            ("not a log line at all".to_owned(), None),
            ("x stdout F a".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe stdout F a"), None);
    }

    fn join(format: Format, lines: &[&str]) -> String {
        let (mut joiner, mut out) = (Joiner::new(format), Vec::new());
        for line in lines {
            joiner.push(&parse(line.as_bytes()).expect(line), &mut out);
        }
        joiner.finish(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_are_joined_per_stream_under_the_time_of_the_first() {
        let lines = [
            "2026-01-01T00:00:01Z stdout P one ",
            "2026-01-01T00:00:02Z stderr F error",
            "2026-01-01T00:00:03Z stdout P two ",
            "2026-01-01T00:00:04Z stdout F three",
            "2026-01-01T00:00:05Z stdout F ",
            "2026-01-01T00:00:06Z stdout P no end",
        ];
        assert_eq!(
            join(Format::default(), &lines),
            "error\none two three\n\nno end\n"
        );
        let format = Format {
            timestamps: true,
            since: None,
        };
        assert_eq!(
            join(format, &lines),
            "2026-01-01T00:00:02Z error\n2026-01-01T00:00:01Z one two three\n2026-01-01T00:00:05Z \n2026-01-01T00:00:06Z no end\n"
        );
    }

    #[test]
    fn lines_before_the_time_asked_for_are_left_out() {
        let lines = [
            "2026-01-01T00:00:01.5Z stdout F a",
            "2026-01-01T00:00:02+00:00 stdout F b",
            "2026-01-01T01:00:01.9+01:00 stdout F c",
        ];
        let since = Some("2026-01-01T00:00:01.9Z".parse().expect("time"));
        let format = Format {
            timestamps: false,
            since,
        };
        assert_eq!(join(format, &lines), "b\nc\n");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        let part = vec![b'x'; 16 << 10];
        let raw = |full| Raw {
            time: TIME,
            stream: Stream::Stdout,
            full,
            message: &part,
        };
        let mut passed = 0;
        for _ in 0..1000 {
            joiner.push(&raw(false), &mut out);
            assert!(joiner.stdout.text.len() <= PART_LIMIT + part.len());
            passed += out.len();
            out.clear();
        }
        joiner.push(&raw(true), &mut out);
        passed += out.len();
        assert_eq!(passed, 1001 * part.len() + 1, "all of it, and one line feed");
    }
}
