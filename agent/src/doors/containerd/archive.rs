//! Image archives: what is in a tar, and in which order its blobs must be stored so that none is ever without owner.
//!
//! Two layouts are read: the OCI image layout (`index.json` and `blobs/`) and the older one with a `manifest.json`
//! that lists layer files; for the latter the manifest is made here. Layers are never read into memory: a blob is a
//! range of the file.

mod layouts;

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use layouts::{complete_name, open};

/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// JSON documents of an image (index, manifest, configuration) are read whole, up to this.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// An index may hold an index; deeper is a loop or nonsense.
const DEPTH_LIMIT: usize = 4;

/// Why an archive cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading the file failed.
    #[error("read image archive {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not an image archive, or a broken one.
    #[error("image archive {path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A blob's bytes.
#[derive(Clone, Debug)]
pub enum Blob {
    /// Held in memory: small documents made by the agent.
    Memory(Vec<u8>),
    /// A range of the archive.
    Range {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        size: u64,
    },
}

/// The blobs of one or more images by digest.
#[derive(Clone, Debug)]
pub struct Content {
    path: PathBuf,
    file: Option<Arc<File>>,
    blobs: BTreeMap<String, Blob>,
}

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Complete name with domain and tag.
    pub name: String,
    /// Of the document the name points to.
    pub media_type: String,
    /// Of that document.
    pub digest: String,
    /// Of that document, bytes.
    pub size: u64,
}

/// A blob to be stored, with the labels that keep its children from being collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The blob.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Labels: which blobs it refers to.
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An index or a manifest: which of both is told by what is filled.
#[derive(Debug, Deserialize)]
struct Document {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Content {
    /// Blobs in memory.
    pub fn memory(blobs: BTreeMap<String, Blob>) -> Self {
        Self {
            path: "(embedded)".into(),
            file: None,
            blobs,
        }
    }

    /// A blob's size, where there is such a blob.
    pub fn size(&self, digest: &str) -> Option<u64> {
        self.blobs.get(digest).map(Blob::size)
    }

    /// Read part of a blob; fewer bytes than `buffer` holds only at the end.
    pub fn read_at(&self, digest: &str, buffer: &mut [u8], at: u64) -> Result<usize, Error> {
        let blob = self
            .blobs
            .get(digest)
            .ok_or_else(|| self.invalid(format!("blob {digest} is missing")))?;
        self.read_blob(blob, buffer, at).map_err(|source| Error::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn read_blob(&self, blob: &Blob, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(blob.size().saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        match (blob, &self.file) {
            (Blob::Memory(bytes), _) => {
                let start = bytes.len() - left;
                buffer[..wanted].copy_from_slice(&bytes[start..start + wanted]);
            }
            (Blob::Range { offset, .. }, Some(file)) => {
                file.read_exact_at(&mut buffer[..wanted], offset + at)?
            }
            (Blob::Range { .. }, None) => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(wanted)
    }

    fn document(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let size = self
            .size(digest)
            .ok_or_else(|| self.invalid(format!("blob {digest} is missing")))?;
        if size > DOCUMENT_LIMIT {
            return Err(self.invalid(format!(
                "document {digest} has {size} bytes, more than {DOCUMENT_LIMIT}"
            )));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_at(digest, &mut bytes, 0)?;
        if digest_of(&bytes) != digest {
            return Err(self.invalid(format!(
                "document {digest} has another content than its name says"
            )));
        }
        Ok(bytes)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, what: &str, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|error| self.invalid(format!("{what}: {error}")))
    }

    fn invalid(&self, message: String) -> Error {
        Error::Invalid {
            path: self.path.clone(),
            message,
        }
    }

    /// Digest of a range of the archive, without holding it in memory.
    fn hash(&self, blob: &Blob) -> Result<String, Error> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        while at < blob.size() {
            let read = self
                .read_blob(blob, &mut buffer, at)
                .map_err(|source| Error::Read {
                    path: self.path.clone(),
                    source,
                })?;
            hash.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(digest_text(&hash.finalize()))
    }
}

impl Blob {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Range { size, .. } => *size,
        }
    }
}

/// All blobs an image needs, children before those that refer to them.
pub fn closure(content: &Content, image: &Image) -> Result<Vec<Stored>, Error> {
    let mut stored = Vec::new();
    collect(content, &image.digest, DEPTH_LIMIT, &mut stored)?;
    Ok(stored)
}

fn collect(content: &Content, digest: &str, depth: usize, stored: &mut Vec<Stored>) -> Result<(), Error> {
    if depth == 0 {
        return Err(content.invalid(format!("index {digest} lies too deep")));
    }
    let bytes = content.document(digest)?;
    let document: Document = content.parse(&format!("document {digest}"), &bytes)?;
    let mut labels = BTreeMap::new();
    // An index may name platforms that were left out of the archive; one that is there is enough.
    let (here, missing): (Vec<_>, Vec<_>) = document
        .manifests
        .iter()
        .partition(|child| content.size(&child.digest).is_some());
    if here.is_empty() && !missing.is_empty() {
        return Err(content.invalid(format!(
            "index {digest}: none of its {} manifests is in it",
            missing.len()
        )));
    }
    for (index, child) in here.iter().enumerate() {
        collect(content, &child.digest, depth - 1, stored)?;
        labels.insert(
            format!("containerd.io/gc.ref.content.m.{index}"),
            child.digest.clone(),
        );
    }
    for (index, child) in document.layers.iter().enumerate() {
        leaf(content, &child.digest, stored)?;
        labels.insert(
            format!("containerd.io/gc.ref.content.l.{index}"),
            child.digest.clone(),
        );
    }
    if let Some(config) = &document.config {
        leaf(content, &config.digest, stored)?;
        labels.insert(
            "containerd.io/gc.ref.content.config".to_owned(),
            config.digest.clone(),
        );
    } else if document.manifests.is_empty() {
        return Err(content.invalid(format!("document {digest} is neither a manifest nor an index")));
    }
    stored.push(Stored {
        digest: digest.to_owned(),
        size: bytes.len() as u64,
        labels,
    });
    Ok(())
}

fn leaf(content: &Content, digest: &str, stored: &mut Vec<Stored>) -> Result<(), Error> {
    let size = content
        .size(digest)
        .ok_or_else(|| content.invalid(format!("blob {digest} is missing")))?;
    if !stored.iter().any(|other| other.digest == digest) {
        stored.push(Stored {
            digest: digest.to_owned(),
            size,
            labels: BTreeMap::new(),
        });
    }
    Ok(())
}

/// `sha256:…` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

fn digest_text(hash: &[u8]) -> String {
    use std::fmt::Write;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar in a file of its own, removed at the end.
    struct Tar(PathBuf);

    impl Tar {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let path =
                std::env::temp_dir().join(format!("keelson-archive-{}-{name}.tar", std::process::id()));
            let mut tar = tar::Builder::new(File::create(&path).expect("create"));
            for (name, bytes) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, name, *bytes).expect("append");
            }
            tar.finish().expect("finish");
            Self(path)
        }
    }

    impl Drop for Tar {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn blob_name(bytes: &[u8]) -> String {
        format!("blobs/{}", digest_of(bytes).replace(':', "/"))
    }

    fn descriptor(bytes: &[u8]) -> serde_json::Value {
        serde_json::json!({ "mediaType": MANIFEST, "digest": digest_of(bytes), "size": bytes.len() })
    }

    fn manifest(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        serde_json::json!({ "schemaVersion": 2, "config": descriptor(config), "layers": layers })
            .to_string()
            .into_bytes()
    }

    fn index(name: &str, target: &[u8]) -> Vec<u8> {
        let mut descriptor = descriptor(target);
        descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
        serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn an_oci_layout_gives_its_images_and_their_blobs_children_first() {
        let (config, layer) = (b"{}".as_slice(), b"a layer".as_slice());
        let manifest = manifest(config, &[layer]);
        let tar = Tar::new(
            "layout",
            &[
                ("./index.json", &index("shop/web:1", &manifest)),
                (&blob_name(config), config),
                (&blob_name(layer), layer),
                (&blob_name(&manifest), &manifest),
            ],
        );
        let (images, content) = open(&tar.0).expect("open");
        assert_eq!(images[0].name, "docker.io/shop/web:1");
        let stored = closure(&content, &images[0]).expect("closure");
        let order: Vec<_> = stored.iter().map(|blob| blob.digest.clone()).collect();
        assert_eq!(order, [digest_of(layer), digest_of(config), digest_of(&manifest)]);
        assert_eq!(
            stored[2].labels["containerd.io/gc.ref.content.l.0"],
            digest_of(layer)
        );
        assert_eq!(
            stored[2].labels["containerd.io/gc.ref.content.config"],
            digest_of(config)
        );
        let mut bytes = [0; 16];
        let read = content.read_at(&digest_of(layer), &mut bytes, 2).expect("read");
        assert_eq!(&bytes[..read], b"layer");
    }

    #[test]
    fn a_platform_left_out_of_an_index_is_skipped_but_not_all_of_them() {
        let (config, layer) = (b"{}".as_slice(), b"a layer".as_slice());
        let here = manifest(config, &[layer]);
        let gone = b"another platform";
        for (name, children, good) in [
            ("some", vec![descriptor(gone), descriptor(&here)], true),
            ("none", vec![descriptor(gone)], false),
        ] {
            let inner = serde_json::json!({ "manifests": children })
                .to_string()
                .into_bytes();
            let tar = Tar::new(
                name,
                &[
                    ("index.json", &index("web:1", &inner)),
                    (&blob_name(config), config),
                    (&blob_name(layer), layer),
                    (&blob_name(&here), &here),
                    (&blob_name(&inner), &inner),
                ],
            );
            let (images, content) = open(&tar.0).expect("open");
            let closure = closure(&content, &images[0]);
            assert_eq!(closure.is_ok(), good, "{closure:?}");
            if let Ok(stored) = closure {
                assert_eq!(stored.last().expect("index").labels.len(), 1);
            }
        }
    }

    #[test]
    fn the_older_layout_gets_a_manifest() {
        let layer = [0x1f, 0x8b, 1, 2, 3];
        let list =
            br#"[{"Config":"c.json","RepoTags":["web:2","other.example/web"],"Layers":["l/layer.tar"]}]"#;
        let tar = Tar::new(
            "older",
            &[
                ("manifest.json", list),
                ("c.json", b"{\"os\":\"linux\"}"),
                ("l/layer.tar", &layer),
            ],
        );
        let (images, content) = open(&tar.0).expect("open");
        let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/web:2", "other.example/web:latest"]);
        let stored = closure(&content, &images[0]).expect("closure");
        assert_eq!(stored.len(), 3);
        let text = String::from_utf8(content.document(&images[0].digest).expect("manifest")).expect("text");
        assert!(text.contains("layer.v1.tar+gzip"), "{text}");
    }

    #[test]
    fn what_is_broken_is_named() {
        let manifest = manifest(b"{}", &[b"lost"]);
        type Files = Vec<(String, Vec<u8>)>;
        let cases: [(&str, Files, &str); 4] = [
            ("empty", vec![("x".into(), vec![])], "neither index.json"),
            (
                "json",
                vec![("index.json".into(), b"{".to_vec())],
                "index.json: EOF",
            ),
            (
                "tag",
                vec![("index.json".into(), index("latest", b"x"))],
                "only a tag",
            ),
            (
                "lost",
                vec![
                    ("index.json".into(), index("web:1", &manifest)),
                    (blob_name(b"{}"), b"{}".to_vec()),
                    (blob_name(&manifest), manifest.clone()),
                ],
                "is missing",
            ),
        ];
        for (name, files, expected) in cases {
            let files: Vec<_> = files
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
                .collect();
            let tar = Tar::new(name, &files);
            let error = open(&tar.0)
                .and_then(|(images, content)| closure(&content, &images[0]))
                .expect_err("must be refused")
                .to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(error.contains(&tar.0.display().to_string()), "{error}");
        }
    }

    #[test]
    fn names_are_completed() {
        for (given, complete) in [
            ("web", "docker.io/library/web:latest"),
            ("web:1", "docker.io/library/web:1"),
            ("shop/web", "docker.io/shop/web:latest"),
            ("host.example/web", "host.example/web:latest"),
            ("host:5000/web", "host:5000/web:latest"),
            ("localhost/web:1", "localhost/web:1"),
            ("host.example/web@sha256:00", "host.example/web@sha256:00"),
        ] {
            assert_eq!(complete_name(given), complete, "{given}");
        }
    }
}
