//! Which cgroup file systems this machine has, told from the mount table alone.

use std::path::{Path, PathBuf};

/// A mounted cgroup file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it controls.
    pub kind: Kind,
}

/// The two generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first: these controllers, or `name=…`.
    V1(Vec<String>),
    /// The second. On hybrid machines it controls nothing.
    V2,
}

/// All cgroup mounts at or below `root`, in the order of the mount table. Of two mounts at one place the later is
/// seen, of one hierarchy mounted twice the first is used.
pub fn parse(mountinfo: &str, root: &Path) -> Vec<Hierarchy> {
    let mut found: Vec<(String, Hierarchy)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((device, hierarchy)) = parse_line(line, root) else {
            continue;
        };
        found.retain(|(_, other)| other.mount != hierarchy.mount);
        if !found.iter().any(|(other, _)| *other == device) {
            found.push((device, hierarchy));
        }
    }
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS…] - TYPE SOURCE SUPEROPTIONS`.
fn parse_line(line: &str, root: &Path) -> Option<(String, Hierarchy)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let device = left.nth(2)?.to_owned();
    let mount = PathBuf::from(unescape(left.nth(1)?));
    let mut right = right.split(' ');
    let kind = match right.next()? {
        "cgroup2" => Kind::V2,
        "cgroup" => {
            let options = right.nth(1)?.split(',');
            Kind::V1(
                options
                    .filter(|option| !matches!(*option, "rw" | "ro"))
                    .map(str::to_owned)
                    .collect(),
            )
        }
        _ => return None,
    };
    mount
        .starts_with(root)
        .then_some((device, Hierarchy { mount, kind }))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                result.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                result.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    result.push_str(rest);
    result
}

impl Hierarchy {
    /// Whether this hierarchy has a controller: by mount option (first generation) or in its list (second).
    pub fn controls(&self, controller: &str) -> bool {
        match &self.kind {
            Kind::V1(controllers) => controllers.iter().any(|name| name == controller),
            Kind::V2 => std::fs::read_to_string(self.mount.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|name| name == controller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(mount: &str, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        Hierarchy {
            mount: mount.into(),
            kind: Kind::V1(controllers),
        }
    }

    fn v2(mount: &str) -> Hierarchy {
        Hierarchy {
            mount: mount.into(),
            kind: Kind::V2,
        }
    }

    #[test]
    fn every_kind_of_machine_is_told_from_its_mounts() {
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let old = "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
                   32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n\
                   33 31 0:30 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n";
        let hybrid = format!("{old}34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let elsewhere = "40 1 0:26 / /mnt/my\\040groups rw - cgroup2 none rw\n";
        let twice = format!("{old}50 1 0:29 / /sys/fs/cgroup/again rw - cgroup cgroup rw,cpu,cpuacct\n");
        let old_parsed = [
            v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
            v1("/sys/fs/cgroup/systemd", &["xattr", "name=systemd"]),
        ];
        let hybrid_parsed = [&old_parsed[..], &[v2("/sys/fs/cgroup/unified")]].concat();
        for (name, text, root, expected) in [
            ("v2", pure, "/sys/fs/cgroup", vec![v2("/sys/fs/cgroup")]),
            ("v1", old, "/sys/fs/cgroup", old_parsed.to_vec()),
            ("hybrid", hybrid.as_str(), "/sys/fs/cgroup", hybrid_parsed),
            ("escaped", elsewhere, "/mnt", vec![v2("/mnt/my groups")]),
            ("other root", elsewhere, "/sys/fs/cgroup", vec![]),
            (
                "mounted twice",
                twice.as_str(),
                "/sys/fs/cgroup",
                old_parsed.to_vec(),
            ),
            ("nonsense", "x\n\n1 2 - cgroup2\n", "/", vec![]),
        ] {
            assert_eq!(parse(text, Path::new(root)), expected, "{name}");
        }
    }
}
