//! Volumes on a real file system; mounts need root and are done below a folder of the test's own.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        ConfigMap, ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, PodSecurityContext,
        PodSpec, SecretVolumeSource,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::*;

struct Root {
    path: PathBuf,
    volumes: Volumes,
}

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keelson-volumes-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("folder");
        let volumes = Volumes::new(&path, &path.join("logs"));
        Self { path, volumes }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if mounts::clear(&self.path).is_ok() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn pod(volumes: Vec<Volume>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            uid: Some("u-1".into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.into(),
        ..Volume::default()
    }
}

fn objects(page: &str) -> Objects {
    let map = ConfigMap {
        data: Some(BTreeMap::from([("page".into(), page.into())])),
        ..ConfigMap::default()
    };
    let mut objects = Objects::default();
    objects
        .config_maps
        .insert(Key::new("shop", "pages"), Arc::new(map));
    objects
}

#[test]
fn a_changed_config_map_reaches_the_volume() {
    let root = Root::new("map");
    let source = ConfigMapVolumeSource {
        name: "pages".into(),
        ..Default::default()
    };
    let pod = pod(vec![Volume {
        config_map: Some(source),
        ..volume("www")
    }]);
    let missing = root
        .volumes
        .prepare(&pod, &Objects::default())
        .expect_err("no such map");
    assert!(matches!(missing, Error::Missing { .. }), "{missing}");
    let paths = root.volumes.prepare(&pod, &objects("one")).expect("prepare");
    let page = paths["www"].join("page");
    assert_eq!(fs::read_to_string(&page).expect("read"), "one");
    root.volumes.prepare(&pod, &objects("two")).expect("prepare");
    assert_eq!(fs::read_to_string(&page).expect("read"), "two");
    root.volumes.remove("u-1").expect("remove");
    assert!(!root.volumes.pod("u-1").exists());
    root.volumes.remove("u-1").expect("again is fine");
}

#[test]
fn an_empty_dir_keeps_what_the_pod_made_of_it() {
    let root = Root::new("empty");
    let pod = pod(vec![Volume {
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..volume("tmp")
    }]);
    let path = root.volumes.prepare(&pod, &Objects::default()).expect("prepare")["tmp"].clone();
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o777);
    fs::write(path.join("file"), "x").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("mode");
    root.volumes.prepare(&pod, &Objects::default()).expect("again");
    assert_eq!((mode(&path), path.join("file").exists()), (0o700, true));
}

#[test]
fn host_paths_are_checked_against_their_type() {
    let root = Root::new("host");
    fs::write(root.path.join("file"), "").expect("write");
    for (name, kind, good) in [
        ("file", Some("File"), true),
        ("file", Some("Directory"), false),
        ("none", Some("File"), false),
        ("none", None, true),
        ("made", Some("DirectoryOrCreate"), true),
        ("made", Some("Directory"), true),
        ("new", Some("FileOrCreate"), true),
        ("new", Some("Socket"), false),
        ("new", Some("Nonsense"), false),
    ] {
        let path = root.path.join(name).display().to_string();
        let source = HostPathVolumeSource {
            path,
            type_: kind.map(str::to_owned),
        };
        let pod = pod(vec![Volume {
            host_path: Some(source),
            ..volume("v")
        }]);
        let result = root.volumes.prepare(&pod, &Objects::default());
        assert_eq!(result.is_ok(), good, "{name} {kind:?}: {result:?}");
    }
    let other = root
        .volumes
        .prepare(&pod(vec![volume("v")]), &Objects::default())
        .expect_err("no source");
    assert!(matches!(other, Error::Unsupported(_)));
}

#[test]
fn a_group_that_owns_the_files_may_read_them() {
    if !may_mount() {
        return;
    }
    let root = Root::new("group");
    let source = ConfigMapVolumeSource {
        name: "pages".into(),
        default_mode: Some(0o400),
        ..Default::default()
    };
    let mut pod = pod(vec![Volume {
        config_map: Some(source),
        ..volume("www")
    }]);
    let spec = pod.spec.as_mut().expect("spec");
    spec.security_context = Some(PodSecurityContext {
        fs_group: Some(2000),
        ..PodSecurityContext::default()
    });
    let paths = root.volumes.prepare(&pod, &objects("one")).expect("prepare");
    let metadata = fs::metadata(paths["www"].join("page")).expect("metadata");
    let group = std::os::unix::fs::MetadataExt::gid(&metadata);
    assert_eq!((group, metadata.permissions().mode() & 0o777), (2000, 0o440));
}

/// Mounting needs the right to; without it the suite's root rungs cover this.
fn may_mount() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn what_must_not_touch_a_disk_lies_in_memory_and_is_unmounted() {
    if !may_mount() {
        return;
    }
    let root = Root::new("memory");
    let memory = EmptyDirVolumeSource {
        medium: Some("Memory".into()),
        size_limit: Some(Quantity("1Mi".into())),
    };
    let secret = SecretVolumeSource {
        optional: Some(true),
        secret_name: Some("s".into()),
        ..Default::default()
    };
    let pod = pod(vec![
        Volume {
            empty_dir: Some(memory),
            ..volume("ram")
        },
        Volume {
            secret: Some(secret),
            ..volume("keys")
        },
    ]);
    let paths = root.volumes.prepare(&pod, &Objects::default()).expect("prepare");
    root.volumes.prepare(&pod, &Objects::default()).expect("again");
    assert_eq!(mounts::below(&root.path).expect("mounts").len(), 2);
    assert!(
        fs::write(paths["ram"].join("big"), vec![0; 2 << 20]).is_err(),
        "more than its limit"
    );
    root.volumes.remove("u-1").expect("remove");
    assert!(mounts::below(&root.path).expect("mounts").is_empty());
}

#[test]
fn a_sub_path_stays_inside_its_volume() {
    if !may_mount() {
        return;
    }
    let root = Root::new("sub");
    let volume = root.path.join("volume");
    fs::create_dir_all(volume.join("data")).expect("folder");
    fs::write(volume.join("data/file"), "inside").expect("write");
    fs::write(root.path.join("secret"), "outside").expect("write");
    std::os::unix::fs::symlink("../secret", volume.join("out")).expect("link");
    std::os::unix::fs::symlink("data/file", volume.join("in")).expect("link");
    let mount = |index, sub: &str| {
        root.volumes
            .mount_path("u-1", "c", index, ("v", &volume), Some(sub))
    };
    assert_eq!(
        fs::read_to_string(mount(0, "data/file").expect("bind")).expect("read"),
        "inside"
    );
    assert_eq!(
        fs::read_to_string(mount(1, "in").expect("bind")).expect("read"),
        "inside"
    );
    assert!(mount(2, "data").expect("bind").join("file").exists());
    assert!(mount(3, "made/deep").expect("bind").is_dir());
    assert!(volume.join("made/deep").is_dir());
    for outside in ["out", "../secret", "/etc"] {
        assert!(mount(4, outside).is_err(), "{outside}");
    }
    let whole = root
        .volumes
        .mount_path("u-1", "c", 5, ("v", &volume), None)
        .expect("whole");
    assert_eq!(whole, volume);
    // Removal takes the binds away, never what they show.
    root.volumes.remove("u-1").expect("remove");
    assert_eq!(
        fs::read_to_string(volume.join("data/file")).expect("read"),
        "inside"
    );
}

#[test]
fn the_last_word_is_cut_and_absent_when_empty() {
    let root = Root::new("word");
    let path = root.volumes.make_termination_log("u-1", "c", 2).expect("make");
    assert_eq!(root.volumes.termination_message("u-1", "c", 2), None);
    fs::write(&path, "x".repeat(5000)).expect("write");
    assert_eq!(
        root.volumes
            .termination_message("u-1", "c", 2)
            .map(|text| text.len()),
        Some(MESSAGE_LIMIT)
    );
    assert_eq!(root.volumes.termination_message("u-1", "c", 3), None);
}
