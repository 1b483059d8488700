//! The OCI archive: one layer, its configuration, a manifest and an index, in a tar. Nothing in it depends on when or
//! where it was made, so the same root folder always gives the same digest.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, bail};
use oci_spec::image::{
    Arch, ConfigBuilder, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
    Sha256Digest,
};
use sha2::{Digest, Sha256};

use super::hex;

/// Where containerd's importer looks for the complete name.
const NAME: &str = "io.containerd.image.name";
/// Where the OCI layout has the tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// All times in an image.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Digest and content.
type Blob = (String, Vec<u8>);

/// How an image is started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Program and fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments a pod replaces.
    pub cmd: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// User, by name or number.
    pub user: Option<String>,
    /// What stops it, if not TERM.
    pub stop_signal: Option<String>,
}

/// The complete name of an image, as a runtime completes what a pod says: `busybox` is `docker.io/library/busybox:latest`.
pub fn normalise(name: &str) -> anyhow::Result<String> {
    if name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || letter.is_uppercase()) {
        bail!("`{name}` is no image name: small letters, digits, `.`, `_`, `-`, `/` and a tag");
    }
    let tagged = match name.rsplit_once('/').map_or(name, |(_, last)| last).contains(':') {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    };
    Ok(match tagged.split_once('/') {
        None => format!("docker.io/library/{tagged}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => tagged,
        Some(_) => format!("docker.io/{tagged}"),
    })
}

/// Pack a root folder.
pub fn write(root: &Path, reference: &str, settings: &Settings, archive: &Path) -> anyhow::Result<()> {
    let layer = layer(root)?;
    // Large: its digest is made once.
    let layer = (digest(&layer), layer);
    let configuration = configuration(settings, &format!("sha256:{}", layer.0))?;
    let configuration = (digest(configuration.as_bytes()), configuration.into_bytes());
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, &configuration)?.build()?)
        .layers(vec![descriptor(MediaType::ImageLayer, &layer)?.build()?])
        .build()?
        .to_string()?;
    let manifest = (digest(manifest.as_bytes()), manifest.into_bytes());
    let tag = reference.rsplit(':').next().unwrap_or(reference);
    let platform = PlatformBuilder::default()
        .architecture(architecture())
        .os(Os::Linux)
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![
            descriptor(MediaType::ImageManifest, &manifest)?
                .platform(platform)
                .annotations(HashMap::from([
                    (NAME.to_owned(), reference.to_owned()),
                    (TAG.to_owned(), tag.to_owned()),
                ]))
                .build()?,
        ])
        .build()?;
    // By way of a JSON value, whose keys are sorted: the annotations are a hash map.
    let index = serde_json::to_string(&serde_json::to_value(index)?)?;
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0")
        .build()?;
    let layout = serde_json::to_string(&layout)?;
    save(archive, &layout, &index, &[layer, configuration, manifest])
}

fn save(archive: &Path, layout: &str, index: &str, blobs: &[Blob]) -> anyhow::Result<()> {
    let folder = archive.parent().context("the archive's folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let new = archive.with_extension(format!("new-{}", std::process::id()));
    let file = File::create(&new).with_context(|| format!("create {}", new.display()))?;
    let mut tar = tar::Builder::new(file);
    append(&mut tar, "oci-layout", layout.as_bytes())?;
    append(&mut tar, "index.json", index.as_bytes())?;
    for (digest, content) in blobs {
        append(&mut tar, &format!("blobs/sha256/{digest}"), content)?;
    }
    tar.into_inner()?.sync_all()?;
    fs::rename(&new, archive).with_context(|| format!("rename to {}", archive.display()))
}

fn configuration(settings: &Settings, diff: &str) -> anyhow::Result<String> {
    let mut env = settings.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.insert(
            0,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        );
    }
    let mut config = ConfigBuilder::default().env(env);
    if !settings.entrypoint.is_empty() {
        config = config.entrypoint(settings.entrypoint.clone());
    }
    if !settings.cmd.is_empty() {
        config = config.cmd(settings.cmd.clone());
    }
    if let Some(user) = &settings.user {
        config = config.user(user.clone());
    }
    if let Some(signal) = &settings.stop_signal {
        config = config.stop_signal(signal.clone());
    }
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![diff.to_owned()])
        .build()?;
    let configuration = ImageConfigurationBuilder::default()
        .created(EPOCH)
        .architecture(architecture())
        .os(Os::Linux)
        .config(config.build()?)
        .rootfs(rootfs)
        .build()?;
    Ok(configuration.to_string()?)
}

fn architecture() -> Arch {
    match env::consts::ARCH {
        "aarch64" => Arch::ARM64,
        _ => Arch::Amd64,
    }
}

fn descriptor(media_type: MediaType, blob: &Blob) -> anyhow::Result<DescriptorBuilder> {
    Ok(DescriptorBuilder::default()
        .media_type(media_type)
        .size(blob.1.len() as u64)
        .digest(Sha256Digest::from_str(&blob.0)?))
}

fn digest(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// The root folder as an uncompressed layer: it is made once and read from a local file, so compressing would only cost.
fn layer(root: &Path) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in walk(root)? {
        let meta = fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let place = path.strip_prefix(root)?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(meta.uid().into());
        header.set_gid(meta.gid().into());
        header.set_mtime(0);
        header.set_size(0);
        let kind = meta.file_type();
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, place.join(""), std::io::empty())?;
        } else if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, place, fs::read_link(&path)?)?;
        } else if kind.is_file() {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(meta.len());
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            tar.append_data(&mut header, place, file.take(meta.len()))?;
        } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket() {
            bail!(
                "{} is a device, pipe or socket, which an image does not carry",
                path.display()
            );
        }
    }
    Ok(tar.into_inner()?)
}

/// Everything below a folder, parents first, in the same order everywhere.
fn walk(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, content: &[u8]) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    tar.append_data(&mut header, path, content)
        .with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_do() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("team/web:2", "docker.io/team/web:2"),
            ("localhost/web", "localhost/web:latest"),
            ("example.test:5000/web:2", "example.test:5000/web:2"),
        ];
        for (name, complete) in cases {
            assert_eq!(normalise(name).expect(name), complete);
        }
        assert!(normalise("").is_err());
        assert!(normalise("Web:1").is_err());
    }

    #[test]
    fn the_same_folder_gives_the_same_archive_whenever_it_was_made() {
        let base = env::temp_dir().join(format!("keelson-archive-{}", std::process::id()));
        let make = |name: &str| {
            let root = base.join(name);
            fs::create_dir_all(root.join("usr/bin")).expect("folder");
            fs::write(root.join("usr/bin/tool"), name.len().to_string()).expect("file");
            std::os::unix::fs::symlink("usr/bin", root.join("bin")).expect("link");
            let archive = base.join(format!("{name}.tar"));
            write(&root, "docker.io/library/tool:1", &Settings::default(), &archive).expect("write");
            fs::read(archive).expect("read")
        };
        let first = make("one");
        let second = make("two");
        let other = make("three");
        fs::remove_dir_all(&base).expect("remove");
        assert!(first == second);
        assert!(first != other);
    }
}
