//! Debian's packages as a source of files: names become exact versions, with the libraries they need, from the machine's
//! own package lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, bail};

use crate::{run, setup};

/// A package in the version to be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    name: String,
    version: String,
    architecture: String,
}

/// What the lists say of a package.
struct Entry {
    package: Package,
    is_library: bool,
    /// Each requirement with its alternatives.
    depends: Vec<Vec<String>>,
}

/// The named packages, and the libraries they need. Nothing else they depend on comes along: an image has no package
/// manager, so scripts and configuration tools would be dead weight.
pub fn closure(names: &[String]) -> anyhow::Result<BTreeSet<Package>> {
    // Reading the lists takes seconds, and what they say changes only with them.
    if let Some(lists) = lists_changed()
        && let Ok(text) = fs::read_to_string(note(names, lists)?)
        && let Some(found) = text.lines().map(Package::parse).collect()
    {
        return Ok(found);
    }
    let found = resolve(names)?;
    if let Some(lists) = lists_changed() {
        let text: Vec<String> = found.iter().map(Package::show).collect();
        run::replace(&note(names, lists)?, text.join("\n").as_bytes())?;
    }
    Ok(found)
}

fn note(names: &[String], lists: u64) -> anyhow::Result<PathBuf> {
    Ok(run::cache()?
        .join("debs")
        .join(format!("{}-{lists}.list", names.join("+"))))
}

/// When the package lists were last fetched, in nanoseconds.
fn lists_changed() -> Option<u64> {
    let time = fs::metadata("/var/lib/apt/lists").ok()?.modified().ok()?;
    let age = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(age.as_nanos()).ok()
}

impl Package {
    fn show(&self) -> String {
        format!("{} {} {}", self.name, self.version, self.architecture)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Self {
            name: words.next()?,
            version: words.next()?,
            architecture: words.next()?,
        })
    }
}

fn resolve(names: &[String]) -> anyhow::Result<BTreeSet<Package>> {
    let mut known = look_up(names)?;
    if known.len() < names.len() {
        // A fresh machine has no lists.
        setup::update_lists()?;
        known = look_up(names)?;
    }
    if let Some(name) = names.iter().find(|name| !known.contains_key(*name)) {
        bail!("the package lists of this machine do not know `{name}`");
    }
    let mut found = BTreeSet::new();
    let mut seen: BTreeSet<String> = names.iter().cloned().collect();
    while !known.is_empty() {
        let wanted = known
            .values()
            .flat_map(|entry| &entry.depends)
            .filter_map(|alternatives| alternatives.first())
            .filter(|name| seen.insert((*name).clone()))
            .cloned()
            .collect::<Vec<_>>();
        found.extend(known.into_values().map(|entry| entry.package));
        // Names that only exist as somebody's "provides" are not in the answer.
        known = look_up(&wanted)?;
        known.retain(|_, entry| entry.is_library);
    }
    Ok(found)
}

/// What the lists say of packages, by name; those they do not know are left out.
fn look_up(names: &[String]) -> anyhow::Result<BTreeMap<String, Entry>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    // It ends with an error where one name of many is unknown, having told of the others.
    let output = Command::new("apt-cache")
        .args(["show", "--no-all-versions"])
        .args(names)
        .output()
        .context("starting apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let entries = text.split("\n\n").filter_map(parse);
    Ok(entries.map(|entry| (entry.package.name.clone(), entry)).collect())
}

fn parse(text: &str) -> Option<Entry> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let section = field("Section").unwrap_or_default();
    let depends = [field("Pre-Depends"), field("Depends")]
        .into_iter()
        .flatten()
        .flat_map(|list| list.split(','))
        .map(|requirement| requirement.split('|').filter_map(name_of).collect::<Vec<_>>())
        .filter(|alternatives| !alternatives.is_empty())
        .collect();
    Some(Entry {
        package: Package {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            architecture: field("Architecture")?.to_owned(),
        },
        is_library: matches!(section.rsplit('/').next(), Some("libs" | "oldlibs")),
        depends,
    })
}

/// `libc6 (>= 2.34)` or `perl:any` is about `libc6` or `perl`.
fn name_of(requirement: &str) -> Option<String> {
    let name = requirement.split_whitespace().next()?.split(':').next()?;
    Some(name.to_owned())
}

/// The package's file, from the cache or from the machine's mirror; apt checks its signature.
pub fn download(package: &Package) -> anyhow::Result<PathBuf> {
    let folder = run::cache()?.join("debs");
    let version = package.version.replace(':', "%3a");
    let file = folder.join(format!("{}_{version}_{}.deb", package.name, package.architecture));
    if file.exists() {
        return Ok(file);
    }
    // In a folder of its own, so that a download that broke off is never taken for whole.
    let partial = folder.join(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
    let mut command = Command::new("apt-get");
    command
        .args([
            "-q",
            "-o",
            "APT::Sandbox::User=root",
            "download",
            &format!("{}={}", package.name, package.version),
        ])
        .current_dir(&partial);
    let fetched = run::output(&mut command).map(|_| ());
    let result = fetched.and_then(|()| {
        for entry in fs::read_dir(&partial)? {
            fs::rename(entry?.path(), &file)?;
        }
        Ok(())
    });
    fs::remove_dir_all(&partial).ok();
    result?;
    if !file.exists() {
        bail!("apt-get downloaded no {}", file.display());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Package: nginx
Version: 1.22.1-9
Architecture: amd64
Pre-Depends: init-system-helpers (>= 1.54~)
Depends: libc6 (>= 2.34), perl:any, default-mta | mail-transport-agent
Section: httpd
";

    #[test]
    fn an_entry_is_read_with_the_first_name_of_each_requirement_first() {
        let entry = parse(TEXT).expect("an entry");
        assert_eq!(entry.package.version, "1.22.1-9");
        assert!(!entry.is_library);
        let depends: Vec<Vec<&str>> = entry
            .depends
            .iter()
            .map(|names| names.iter().map(String::as_str).collect())
            .collect();
        assert_eq!(
            depends,
            [
                vec!["init-system-helpers"],
                vec!["libc6"],
                vec!["perl"],
                vec!["default-mta", "mail-transport-agent"]
            ]
        );
    }

    #[test]
    fn text_that_is_no_entry_is_none() {
        assert!(parse("").is_none());
    }
}
