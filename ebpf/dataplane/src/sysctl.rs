//! Per-device settings of the kernel, in the namespace of the calling thread. Never `all`.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use crate::error::{Error, Result};

/// Ports that local sockets do not choose themselves.
pub const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Every setting of a device that this crate changes: only these are looked at beforehand, and set back.
const SETTINGS: [(&str, &str); 10] = [
    ("ipv4", "accept_local"),
    ("ipv4", "route_localnet"),
    ("ipv4", "forwarding"),
    ("ipv6", "forwarding"),
    ("ipv6", "force_forwarding"),
    ("ipv6", "accept_ra"),
    ("ipv6", "accept_dad"),
    ("ipv6", "addr_gen_mode"),
    ("ipv6", "router_solicitations"),
    ("ipv6", "disable_ipv6"),
];

/// Paths of all settings of a device that this crate may change.
pub fn all_of_device(device: &str) -> impl Iterator<Item = PathBuf> {
    SETTINGS
        .iter()
        .map(move |(family, key)| path_of(family, device, key))
}

fn path_of(family: &str, device: &str, key: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/{family}/conf"))
        .join(device)
        .join(key)
}

/// Write a setting of one device, if it is not so already.
pub fn set_device(family: &str, device: &str, key: &str, value: &str) -> Result<()> {
    debug_assert!(
        SETTINGS.contains(&(family, key)),
        "{family} {key} would not be set back"
    );
    set(&path_of(family, device, key), value)
}

/// A setting of one device; `None` where the kernel does not have it.
pub fn device(family: &str, device: &str, key: &str) -> Result<Option<String>> {
    let path = path_of(family, device, key);
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
    let path = PathBuf::from(RESERVED_PORTS);
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

/// The list `now` without what we added to `before` when we wrote `set`: others may have added to it since, and the kernel
/// joins neighbours.
pub fn without_ports(now: &str, before: &str, set: &str) -> String {
    let (now, before, set) = (ports(now), ports(before), ports(set));
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in now
        .into_iter()
        .filter(|port| !set.contains(port) || before.contains(port))
    {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn ports(list: &str) -> BTreeSet<u16> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u16>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_back_and_those_of_others_stay() {
        // Ours went in beside 8080, which the kernel joined with nothing; somebody added 29999's neighbour later.
        assert_eq!(
            without_ports("8080,20000-30000", "8080", "8080,20000-29999"),
            "8080,30000"
        );
        assert_eq!(without_ports("20000-29999", "", "20000-29999"), "");
        assert_eq!(
            without_ports("20000-32767", "25000-25001", "20000-32767"),
            "25000-25001"
        );
        assert_eq!(without_ports("1,2", "", "5"), "1-2");
    }

    #[test]
    fn what_others_reserved_stays_and_ours_is_added_once() {
        let once = merge("8080,9000-9100", &[(20000, 29999)]);
        assert_eq!(once, "8080,9000-9100,20000-29999");
        assert_eq!(merge(&once, &[(20000, 29999)]), once);
        assert_eq!(merge("", &[(1, 2)]), "1-2");
    }
}
