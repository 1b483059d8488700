//! Per-device settings of the kernel, in the namespace of the calling thread. Never `all`.

use std::{fs, io, path::PathBuf};

use crate::error::{Error, Result};

/// Write a setting of one device, if it is not so already.
pub fn set_device(family: &str, device: &str, key: &str, value: &str) -> Result<()> {
    set(
        &PathBuf::from(format!("/proc/sys/net/{family}/conf"))
            .join(device)
            .join(key),
        value,
    )
}

/// A setting of one device; `None` where the kernel does not have it.
pub fn device(family: &str, device: &str, key: &str) -> Result<Option<String>> {
    let path = PathBuf::from(format!("/proc/sys/net/{family}/conf"))
        .join(device)
        .join(key);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system("reading", path.display().to_string(), error)),
    }
}

/// Whether the kernel speaks IPv6 at all.
pub fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf").unwrap_or(false)
}

/// Keep local sockets from choosing these ports themselves.
pub fn reserve_ports(ranges: &[(u16, u16)]) -> Result<()> {
    let path = PathBuf::from("/proc/sys/net/ipv4/ip_local_reserved_ports");
    let present = fs::read_to_string(&path).map_err(Error::on("reading", path.display().to_string()))?;
    set(&path, &merge(present.trim(), ranges))
}

fn set(path: &PathBuf, value: &str) -> Result<()> {
    let attempt = || -> io::Result<()> {
        if fs::read_to_string(path)?.trim() == value {
            return Ok(());
        }
        fs::write(path, value)
    };
    attempt().map_err(Error::on("writing", path.display().to_string()))
}

/// The present list with ours in it; the kernel joins what overlaps.
fn merge(present: &str, ranges: &[(u16, u16)]) -> String {
    let covered = |first: u16, last: u16| {
        present.split(',').filter(|part| !part.is_empty()).any(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            matches!((low.parse::<u16>(), high.parse::<u16>()), (Ok(low), Ok(high)) if low <= first && last <= high)
        })
    };
    let missing = ranges.iter().filter(|(first, last)| !covered(*first, *last));
    let missing = missing.map(|(first, last)| format!("{first}-{last}"));
    present
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .chain(missing)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_reserved_stays_and_ours_is_added_once() {
        let once = merge("8080,9000-9100", &[(20000, 29999)]);
        assert_eq!(once, "8080,9000-9100,20000-29999");
        assert_eq!(merge(&once, &[(20000, 29999)]), once);
        assert_eq!(merge("", &[(1, 2)]), "1-2");
    }
}
