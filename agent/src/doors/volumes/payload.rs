//! Which files a ConfigMap or Secret becomes in a volume. Pure.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath, Secret, SecretVolumeSource};

use super::{
    Error,
    atomic::{Entry, Payload},
};

/// Permission bits where nothing is said.
const DEFAULT_MODE: i32 = 0o644;

/// Files of a ConfigMap; `None` stands for a missing object.
pub fn config_map(
    volume: &str,
    source: &ConfigMapVolumeSource,
    object: Option<&ConfigMap>,
) -> Result<Payload, Error> {
    let optional = source.optional.unwrap_or(false);
    let Some(object) = object else {
        return absent(volume, "configmap", &source.name, optional);
    };
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(key, text)| (key, text.clone().into_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key, bytes.0.clone()));
    let describe = format!("configmap {:?}", source.name);
    project(
        volume,
        &describe,
        text.chain(binary),
        source.items.as_deref(),
        source.default_mode,
        optional,
    )
}

/// Files of a Secret; `None` stands for a missing object.
pub fn secret(volume: &str, source: &SecretVolumeSource, object: Option<&Secret>) -> Result<Payload, Error> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let optional = source.optional.unwrap_or(false);
    let Some(object) = object else {
        return absent(volume, "secret", name, optional);
    };
    let binary = object
        .data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key, bytes.0.clone()));
    // `stringData` is merged over `data` when an object is stored; a manifest may still carry it.
    let text = object
        .string_data
        .iter()
        .flatten()
        .map(|(key, text)| (key, text.clone().into_bytes()));
    let describe = format!("secret {name:?}");
    project(
        volume,
        &describe,
        binary.chain(text),
        source.items.as_deref(),
        source.default_mode,
        optional,
    )
}

fn absent(volume: &str, kind: &'static str, name: &str, optional: bool) -> Result<Payload, Error> {
    if optional {
        return Ok(Payload::new());
    }
    Err(Error::Missing {
        volume: volume.to_owned(),
        what: format!("{kind} {name:?} not found"),
    })
}

fn project<'a>(
    volume: &str,
    object: &str,
    data: impl Iterator<Item = (&'a String, Vec<u8>)>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, Error> {
    let data: std::collections::BTreeMap<_, _> = data.collect();
    let mode =
        |own: Option<i32>| u32::try_from(own.or(default_mode).unwrap_or(DEFAULT_MODE)).unwrap_or(0) & 0o777;
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let entry = |(key, bytes): (&String, Vec<u8>)| {
            (
                PathBuf::from(key),
                Entry {
                    bytes,
                    mode: mode(None),
                },
            )
        };
        return Ok(data.into_iter().map(entry).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let entry = Entry {
                    bytes: bytes.clone(),
                    mode: mode(item.mode),
                };
                payload.insert(PathBuf::from(&item.path), entry);
            }
            None if optional => {}
            None => {
                let what = format!("{object} has no key {:?}", item.key);
                return Err(Error::Missing {
                    volume: volume.to_owned(),
                    what,
                });
            }
        }
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use k8s_openapi::ByteString;

    use super::*;

    fn map() -> ConfigMap {
        ConfigMap {
            data: Some(BTreeMap::from([
                ("page".into(), "hello".into()),
                ("b".into(), "2".into()),
            ])),
            binary_data: Some(BTreeMap::from([("raw".into(), ByteString(vec![0, 255]))])),
            ..ConfigMap::default()
        }
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath {
            key: key.into(),
            path: path.into(),
            mode,
        }
    }

    #[test]
    fn all_keys_become_files_unless_items_are_named() {
        let all = ConfigMapVolumeSource {
            name: "m".into(),
            ..Default::default()
        };
        let files = config_map("v", &all, Some(&map())).expect("files");
        let names: Vec<_> = files.keys().map(|path| path.to_str().expect("text")).collect();
        assert_eq!(names, ["b", "page", "raw"]);
        assert_eq!(
            files[Path::new("raw")],
            Entry {
                bytes: vec![0, 255],
                mode: 0o644
            }
        );

        let items = vec![item("page", "www/index.html", Some(0o400)), item("b", "b", None)];
        let some = ConfigMapVolumeSource {
            items: Some(items),
            default_mode: Some(0o600),
            ..all
        };
        let files = config_map("v", &some, Some(&map())).expect("files");
        assert_eq!(
            files[Path::new("www/index.html")],
            Entry {
                bytes: b"hello".to_vec(),
                mode: 0o400
            }
        );
        assert_eq!(files[Path::new("b")].mode, 0o600);
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let source = |optional| ConfigMapVolumeSource {
            name: "m".into(),
            items: Some(vec![item("lost", "x", None)]),
            optional,
            ..Default::default()
        };
        let message = |result: Result<Payload, Error>| result.expect_err("missing").to_string();
        assert!(message(config_map("v", &source(None), None)).contains("configmap \"m\" not found"));
        assert!(message(config_map("v", &source(None), Some(&map()))).contains("has no key \"lost\""));
        assert_eq!(
            config_map("v", &source(Some(true)), None).expect("optional"),
            Payload::new()
        );
        assert_eq!(
            config_map("v", &source(Some(true)), Some(&map())).expect("optional"),
            Payload::new()
        );
    }

    #[test]
    fn a_secrets_text_wins_over_its_bytes() {
        let object = Secret {
            data: Some(BTreeMap::from([("k".into(), ByteString(b"old".to_vec()))])),
            string_data: Some(BTreeMap::from([("k".into(), "new".into())])),
            ..Secret::default()
        };
        let source = SecretVolumeSource {
            secret_name: Some("s".into()),
            ..Default::default()
        };
        let files = secret("v", &source, Some(&object)).expect("files");
        assert_eq!(files[Path::new("k")].bytes, b"new");
    }
}
