//! A log file that is read while it grows.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::line;

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// What was read of a line whose end has not been.
    rest: Vec<u8>,
    position: u64,
}

impl LogFile {
    /// Open a file from its beginning; `None` if it is not there (yet).
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self {
                path: path.to_owned(),
                file,
                rest: Vec::new(),
                position: 0,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Go to where the last `lines` lines begin.
    pub fn skip_to_tail(&mut self, lines: u64) -> io::Result<()> {
        let at = tail(&mut self.file, lines)?;
        self.file.seek(SeekFrom::Start(at))?;
        (self.position, self.rest) = (at, Vec::new());
        Ok(())
    }

    /// Read on; `each` gets every whole raw line. False = there was nothing to read.
    pub fn read(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let count = self.file.read(&mut chunk)?;
        if count == 0 {
            // Cut to a shorter length by somebody: what stands there now is new.
            if self.file.metadata()?.len() < self.position {
                self.file.seek(SeekFrom::Start(0))?;
                (self.position, self.rest) = (0, Vec::new());
                return self.read(each);
            }
            return Ok(false);
        }
        self.position += count as u64;
        self.rest.extend_from_slice(&chunk[..count]);
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            each(&self.rest[start..start + length]);
            start += length + 1;
        }
        self.rest.drain(..start);
        Ok(true)
    }

    /// Whether another file has its name by now: this one was rotated away.
    pub fn replaced(&self) -> io::Result<bool> {
        let mine = self.file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) != (mine.dev(), mine.ino())),
            // Between the two steps of a rotation, or removed with its pod.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Where the last `lines` lines begin.
fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(length);
    }
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut window = CHUNK as u64;
    loop {
        let start = length.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.by_ref().take(length - start).read_to_end(&mut text)?;
        let begins = beginnings(&text, start == 0);
        match begins.len().checked_sub(wanted) {
            Some(first) => return Ok(start + begins[first] as u64),
            None if start == 0 => return Ok(0),
            None => window *= 2,
        }
    }
}

/// Offsets at which lines begin (not parts of lines), of those that have a beginning in `text`.
fn beginnings(text: &[u8], from_the_start: bool) -> Vec<usize> {
    let mut found = Vec::new();
    // Without the text before, nobody knows whether the first raw line begins a line, or begins at all.
    let mut begins = from_the_start;
    let mut at = 0;
    for raw in text.split_inclusive(|byte| *byte == b'\n') {
        let whole = raw.strip_suffix(b"\n");
        if begins && !raw.is_empty() {
            found.push(at);
        }
        begins = whole.is_some_and(|whole| line::parse(whole).is_none_or(|raw| raw.full));
        if at == 0 && !from_the_start {
            // It may be the end of a raw line, which says nothing of itself; the next one then begins a line or a part.
            begins = whole.is_some_and(|whole| line::parse(whole).is_some_and(|raw| raw.full));
        }
        at += raw.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;
    use crate::doors::temporary::Folder;

    fn numbers(lines: std::ops::Range<usize>) -> String {
        lines
            .map(|number| format!("2026-01-01T00:00:00Z stdout F {number}\n"))
            .collect()
    }

    fn read_all(log: &mut LogFile) -> Vec<String> {
        let mut found = Vec::new();
        while log
            .read(|line| found.push(String::from_utf8_lossy(&line[30.min(line.len())..]).into_owned()))
            .expect("read")
        {}
        found
    }

    #[test]
    fn the_tail_is_found_in_files_of_any_size() {
        let folder = Folder::new("logs-tail");
        let path = folder.path().join("0.log");
        for count in [0, 1, 5, 3000, 10_000] {
            fs::write(&path, numbers(0..count)).expect("write");
            for wanted in [0, 1, 3, 2500, 9000, u64::MAX] {
                let mut log = LogFile::open(&path).expect("open").expect("there");
                log.skip_to_tail(wanted).expect("skip");
                let expected = count.min(usize::try_from(wanted).unwrap_or(usize::MAX));
                assert_eq!(read_all(&mut log).len(), expected, "{wanted} of {count}");
            }
        }
    }

    #[test]
    fn the_tail_counts_lines_and_not_their_parts() {
        let folder = Folder::new("logs-tail-parts");
        let path = folder.path().join("0.log");
        let text = ["F a", "P b1", "P b2", "F b3", "F c"]
            .map(|rest| format!("2026-01-01T00:00:00Z stdout {rest}\n"))
            .concat();
        fs::write(&path, text).expect("write");
        let mut log = LogFile::open(&path).expect("open").expect("there");
        log.skip_to_tail(2).expect("skip");
        assert_eq!(read_all(&mut log).len(), 4, "three parts of b, and c");
    }

    #[test]
    fn a_growing_file_is_read_on_by_whole_lines() {
        let folder = Folder::new("logs-grow");
        let path = folder.path().join("0.log");
        assert!(LogFile::open(&path).expect("no failure").is_none());
        fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T").expect("write");
        let mut log = LogFile::open(&path).expect("open").expect("there");
        assert_eq!(read_all(&mut log), ["one"]);
        let mut writer = fs::OpenOptions::new().append(true).open(&path).expect("open");
        writer.write_all(b"00:00:01Z stdout F two\n").expect("write");
        assert_eq!(read_all(&mut log), ["two"]);
        assert!(!log.replaced().expect("look"));
    }

    #[test]
    fn rotation_and_truncation_are_noticed() {
        let folder = Folder::new("logs-rotate");
        let path = folder.path().join("0.log");
        fs::write(&path, numbers(0..3)).expect("write");
        let mut log = LogFile::open(&path).expect("open").expect("there");
        assert_eq!(read_all(&mut log).len(), 3);
        fs::write(&path, numbers(7..8)).expect("truncate and write");
        assert_eq!(read_all(&mut log), ["7"]);
        fs::rename(&path, folder.path().join("0.log.1")).expect("rename");
        assert!(!log.replaced().expect("look"), "nothing has its name yet");
        fs::write(&path, "").expect("write");
        assert!(log.replaced().expect("look"));
    }
}
