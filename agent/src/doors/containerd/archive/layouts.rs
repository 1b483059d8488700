//! The two layouts of image archives, and how images are named in them.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use serde::Deserialize;

use super::{Blob, Content, DOCUMENT_LIMIT, Document, Error, Image, MANIFEST, digest_of};

/// Domain and first path of names that give none, as every runtime completes them.
const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_PATH: &str = "library/";
/// An entry of the older layout's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Legacy {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Open an archive and name its images.
pub fn open(path: &Path) -> Result<(Vec<Image>, Content), Error> {
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read_error)?;
    let mut content = Content {
        path: path.to_owned(),
        file: None,
        blobs: BTreeMap::new(),
    };
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(&file);
    for entry in archive.entries_with_seek().map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let name = entry
            .path()
            .map_err(read_error)?
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        let range = Blob::Range {
            offset: entry.raw_file_position(),
            size: entry.size(),
        };
        if let Some(digest) = name.strip_prefix("blobs/").and_then(digest_of_path) {
            content.blobs.insert(digest, range.clone());
        }
        files.insert(name, range);
    }
    content.file = Some(Arc::new(file));
    let images = if let Some(index) = files.get("index.json") {
        layout_images(&content, index)?
    } else if let Some(manifest) = files.get("manifest.json").cloned() {
        legacy_images(&mut content, &files, &manifest)?
    } else {
        let message = "neither index.json (OCI layout) nor manifest.json is in it; a compressed archive must be unpacked first";
        return Err(content.invalid(message.to_owned()));
    };
    Ok((images, content))
}

fn layout_images(content: &Content, index: &Blob) -> Result<Vec<Image>, Error> {
    let index: Document = content.parse("index.json", &read_whole(content, index)?)?;
    let mut images = Vec::new();
    for descriptor in index.manifests {
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .find_map(|key| descriptor.annotations.get(key))
            .ok_or_else(|| content.invalid(format!("{} has no name annotation", descriptor.digest)))?;
        if !name.contains(['/', ':']) {
            return Err(content.invalid(format!("name {name:?} is only a tag; write it as repository:tag")));
        }
        images.push(Image {
            name: complete_name(name),
            media_type: if descriptor.media_type.is_empty() {
                MANIFEST.to_owned()
            } else {
                descriptor.media_type
            },
            digest: descriptor.digest,
            size: descriptor.size,
        });
    }
    Ok(images)
}

fn legacy_images(
    content: &mut Content,
    files: &BTreeMap<String, Blob>,
    manifest: &Blob,
) -> Result<Vec<Image>, Error> {
    let entries: Vec<Legacy> = content.parse("manifest.json", &read_whole(content, manifest)?)?;
    let mut images = Vec::new();
    for entry in entries {
        let config = add(
            content,
            files,
            &entry.config,
            "application/vnd.oci.image.config.v1+json",
        )?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            layers.push(add(
                content,
                files,
                layer,
                "application/vnd.oci.image.layer.v1.tar",
            )?);
        }
        let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let bytes = manifest.to_string().into_bytes();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        content.blobs.insert(digest.clone(), Blob::Memory(bytes));
        for name in entry.repo_tags.unwrap_or_default() {
            images.push(Image {
                name: complete_name(&name),
                media_type: MANIFEST.to_owned(),
                digest: digest.clone(),
                size,
            });
        }
    }
    Ok(images)
}

/// Make a file of the archive a blob; returns its descriptor. A compressed layer is told by its first bytes.
fn add(
    content: &mut Content,
    files: &BTreeMap<String, Blob>,
    name: &str,
    media_type: &str,
) -> Result<serde_json::Value, Error> {
    let blob = files
        .get(name)
        .ok_or_else(|| content.invalid(format!("file {name:?} is missing")))?;
    let mut magic = [0; 2];
    let read = content
        .read_blob(blob, &mut magic, 0)
        .map_err(|source| Error::Read {
            path: content.path.clone(),
            source,
        })?;
    let suffix = if magic[..read] == [0x1f, 0x8b] {
        "+gzip"
    } else {
        ""
    };
    let digest = content.hash(blob)?;
    content.blobs.insert(digest.clone(), blob.clone());
    Ok(
        serde_json::json!({ "mediaType": format!("{media_type}{suffix}"), "digest": digest, "size": blob.size() }),
    )
}

fn read_whole(content: &Content, blob: &Blob) -> Result<Vec<u8>, Error> {
    if blob.size() > DOCUMENT_LIMIT {
        return Err(content.invalid(format!(
            "its index has {} bytes, more than {DOCUMENT_LIMIT}",
            blob.size()
        )));
    }
    let mut bytes = vec![0; usize::try_from(blob.size()).unwrap_or(0)];
    content
        .read_blob(blob, &mut bytes, 0)
        .map_err(|source| Error::Read {
            path: content.path.clone(),
            source,
        })?;
    Ok(bytes)
}

/// A name as the runtime completes it: domain, path, and a tag where there is neither tag nor digest.
pub fn complete_name(name: &str) -> String {
    let (domain, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let path = if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        DEFAULT_PATH
    } else {
        ""
    };
    let tagged = rest.contains('@') || rest.rsplit('/').next().is_some_and(|last| last.contains(':'));
    format!("{domain}/{path}{rest}{}", if tagged { "" } else { ":latest" })
}

/// `sha256/ab…` → `sha256:ab…`.
fn digest_of_path(path: &str) -> Option<String> {
    let (algorithm, hash) = path.split_once('/')?;
    (!hash.contains('/')).then(|| format!("{algorithm}:{hash}"))
}
