//! Files of objects: `-f FILE`, `-f DIR`, `-f -`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use keelson_proto::keelson::Source;

use super::args::Files;
use crate::{doors::manifests::format, yaml::Format};

/// Read them all.
pub fn read(files: &Files) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in &files.filename {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read standard input")?;
            sources.push(source("standard input".to_owned(), text, Format::Yaml));
        } else if path.is_dir() {
            folder(path, files.recursive, &mut sources)?;
        } else {
            sources.push(file(path)?);
        }
    }
    if sources.is_empty() {
        bail!(
            "error: no files in {}",
            files
                .filename
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    Ok(sources)
}

fn file(path: &Path) -> anyhow::Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("error: read {}", path.display()))?;
    // A file that was named is taken whatever its name.
    let format = format(Path::new(path.file_name().unwrap_or_default())).unwrap_or(Format::Yaml);
    Ok(source(path.display().to_string(), text, format))
}

fn source(name: String, text: String, format: Format) -> Source {
    // JSON is taken wherever it comes from: a text of YAML does not begin so.
    let json = format == Format::Json || text.trim_start().starts_with('{');
    Source { name, text, json }
}

fn folder(path: &Path, recursive: bool, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let fail = || format!("error: list folder {}", path.display());
    let mut entries = fs::read_dir(path)
        .with_context(fail)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<PathBuf>, _>>()
        .with_context(fail)?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                folder(&entry, recursive, sources)?;
            }
        } else if format(Path::new(entry.file_name().unwrap_or_default())).is_some() {
            sources.push(file(&entry)?);
        }
    }
    Ok(())
}
