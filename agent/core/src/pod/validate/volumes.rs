//! A pod's volumes and the files they are made of.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, PodSpec, Volume};

use super::{Checker, leaves};
use crate::manifest::names;

const HOST_PATHS: [&str; 8] = [
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
];

impl Checker {
    /// Checks the volumes; returns their names.
    pub(super) fn volumes<'a>(&mut self, spec: &'a PodSpec, path: &str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let at = format!("{path}.volumes[{index}]");
            self.label(&volume.name, &format!("{at}.name"));
            if !seen.insert(volume.name.as_str()) {
                self.duplicate(&volume.name, format!("{at}.name"));
            }
            self.volume(volume, &at);
        }
        seen
    }

    fn volume(&mut self, volume: &Volume, at: &str) {
        // Other types are named as not implemented already.
        let others = serde_json::to_value(volume).ok().and_then(|value| {
            let fields = value.as_object()?.keys().cloned();
            let known = ["name", "configMap", "secret", "emptyDir", "hostPath"];
            Some(fields.into_iter().any(|field| !known.contains(&field.as_str())))
        });
        let set = [
            volume.config_map.is_some(),
            volume.secret.is_some(),
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
            others.unwrap_or(false),
        ];
        let choice = "emptyDir, hostPath, configMap or secret";
        self.exactly_one(&set, at, "volume type", choice);
        if let Some(source) = &volume.config_map {
            let at = format!("{at}.configMap");
            self.name(Some(&source.name), &format!("{at}.name"), names::subdomain);
            self.files(source.items.as_deref(), source.default_mode, &at);
        }
        if let Some(source) = &volume.secret {
            let at = format!("{at}.secret");
            let name = source.secret_name.as_deref();
            self.name(name, &format!("{at}.secretName"), names::subdomain);
            self.files(source.items.as_deref(), source.default_mode, &at);
        }
        if let Some(source) = &volume.empty_dir {
            self.empty_dir(source, &format!("{at}.emptyDir"));
        }
        if let Some(source) = &volume.host_path {
            self.host_path(source, &format!("{at}.hostPath"));
        }
    }

    fn files(&mut self, items: Option<&[KeyToPath]>, default_mode: Option<i32>, at: &str) {
        self.mode(default_mode, &format!("{at}.defaultMode"));
        for (index, item) in items.into_iter().flatten().enumerate() {
            let at = format!("{at}.items[{index}]");
            self.name(Some(&item.key), &format!("{at}.key"), names::data_key);
            self.mode(item.mode, &format!("{at}.mode"));
            let path = &item.path;
            if path.is_empty() {
                self.required(format!("{at}.path"));
            } else if leaves(path) || path.starts_with("..") {
                self.fault(
                    format!("{at}.path"),
                    format!("Invalid value: \"{path}\": must be a relative path without '..' and not start with '..'"),
                );
            }
        }
    }

    fn mode(&mut self, mode: Option<i32>, path: &str) {
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            self.fault(
                path,
                format!("Invalid value: {mode}: must be a number between 0 and 0777 (octal), both inclusive"),
            );
        }
    }

    fn empty_dir(&mut self, source: &EmptyDirVolumeSource, at: &str) {
        let medium = source.medium.as_deref().unwrap_or_default();
        self.one_of(Some(medium), &format!("{at}.medium"), &["", "Memory"]);
        let Some(limit) = &source.size_limit else { return };
        let path = format!("{at}.sizeLimit");
        self.quantity(limit, &path);
        if medium.is_empty() {
            self.fault(
                path,
                "is implemented by this version for medium Memory only; the pod would run without it",
            );
        }
    }

    fn host_path(&mut self, source: &HostPathVolumeSource, at: &str) {
        let path = source.path.as_str();
        if path.is_empty() {
            self.required(format!("{at}.path"));
        } else if path.split('/').any(|part| part == "..") {
            self.fault(
                format!("{at}.path"),
                format!("Invalid value: \"{path}\": must not contain '..'"),
            );
        }
        self.one_of(source.type_.as_deref(), &format!("{at}.type"), &HOST_PATHS);
    }
}
