//! The end of a container's log, in the runtime's format: `TIME STREAM F|P text`.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// The last lines of a container's log, as the container wrote them, cut from the front to `bytes`.
pub fn tail(path: &Path, lines: usize, bytes: usize) -> Option<String> {
    let mut log = fs::File::open(path).ok()?;
    let length = log.metadata().ok()?.len();
    // Every line carries a time and two words before the text.
    let window = (bytes + lines * 48) as u64;
    log.seek(SeekFrom::Start(length.saturating_sub(window))).ok()?;
    let mut raw = Vec::new();
    log.take(window).read_to_end(&mut raw).ok()?;
    let raw = String::from_utf8_lossy(&raw);
    let texts: Vec<&str> = raw
        .lines()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    let mut tail = texts[texts.len().saturating_sub(lines)..].join("\n");
    if !tail.is_empty() {
        tail.push('\n');
    }
    let mut cut = tail.len().saturating_sub(bytes);
    while !tail.is_char_boundary(cut) {
        cut += 1;
    }
    Some(tail.split_off(cut)).filter(|tail| !tail.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::temporary::Folder;

    #[test]
    fn the_last_lines_are_given_without_their_times_and_cut_from_the_front() {
        let folder = Folder::new("log");
        let path = folder.path().join("0.log");
        assert_eq!(tail(&path, 3, 100), None);
        let line = |number| format!("2026-11-24T00:00:00.000000000Z stdout F line {number}\n");
        fs::write(&path, (0..2000).map(line).collect::<String>()).expect("write");
        assert_eq!(tail(&path, 2, 100).as_deref(), Some("line 1998\nline 1999\n"));
        assert_eq!(tail(&path, 80, 12).as_deref(), Some("8\nline 1999\n"));
    }
}
