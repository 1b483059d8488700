//! Documents of a configuration file → fields of [`Config`].
//!
//! A field that is set but not supported is refused by name: a setting that is silently ignored is a fault found much later.

use std::collections::BTreeSet;

use keelson_core::manifest::document::Document;
use serde_json::{Map, Value};

use super::{API_VERSION, Config, Flags, KIND, kube_proxy};

const KUBELET_API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KUBELET_KIND: &str = "KubeletConfiguration";

/// Fields of a `KubeletConfiguration` that are read, and the fields of [`Config`] they set.
const KUBELET_FIELDS: [(&str, &str); 5] = [
    ("clusterDomain", "clusterDomain"),
    ("staticPodPath", "manifests"),
    ("podLogsDir", "podLogs"),
    ("podCIDR", "podCIDR"),
    ("cgroupRoot", "cgroupParent"),
];

/// What all documents say together.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Fields of [`Config`] by name.
    pub fields: Map<String, Value>,
    /// What holds where no document says otherwise.
    pub defaults: Map<String, Value>,
    /// What has no meaning here, and why that is fine.
    pub notes: Vec<String>,
    /// What cannot be taken; all are told at once.
    pub problems: Vec<String>,
    kinds: BTreeSet<&'static str>,
}

/// One setting, as it was found and as it is meant.
pub(super) struct Setting {
    /// Where it stands in its document.
    pub path: String,
    /// The field of [`Config`].
    pub ours: String,
    /// What it says.
    pub value: Value,
}

/// What one document says.
#[derive(Default)]
pub(super) struct Translation {
    /// What it sets.
    pub settings: Vec<Setting>,
    /// What it sets unless another document does.
    pub defaults: Vec<(&'static str, Value)>,
    /// What has no meaning here.
    pub notes: Vec<String>,
    /// Path and cause of what cannot be taken.
    pub problems: Vec<(String, String)>,
}

impl Translation {
    /// A field that means the same here.
    pub fn set(&mut self, path: &str, ours: &str, value: Value) {
        self.settings.push(Setting {
            path: path.to_owned(),
            ours: ours.to_owned(),
            value,
        });
    }

    /// A field that need not be followed.
    pub fn note(&mut self, path: &str, why: &str) {
        self.notes.push(format!("{path}: {why}"));
    }

    /// A field that cannot be followed.
    pub fn refuse(&mut self, path: &str, why: &str) {
        self.problems.push((path.to_owned(), why.to_owned()));
    }
}

impl Reading {
    /// Take the fields of one document.
    pub fn document(&mut self, document: &Document) {
        let at = |path: &str| format!("document {}, line {}: ", document.number, document.line_of(path));
        let text = |name: &str| {
            document
                .value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let fields = document.value.as_object().into_iter().flatten();
        let fields =
            fields.filter(|(name, value)| *name != "apiVersion" && *name != "kind" && !value.is_null());
        let (kind, translation) = match (text("apiVersion"), text("kind")) {
            (API_VERSION, KIND) => (KIND, ours(fields)),
            (KUBELET_API_VERSION, KUBELET_KIND) => (KUBELET_KIND, kubelet(fields)),
            (kube_proxy::API_VERSION, kube_proxy::KIND) => {
                (kube_proxy::KIND, kube_proxy::translate(&document.value))
            }
            (version, kind) => {
                self.problems.push(format!(
                    "{}kind {kind:?} of apiVersion {version:?} is not read by this version; {KIND} ({API_VERSION}), \
                     {KUBELET_KIND} ({KUBELET_API_VERSION}) and {} ({}) are",
                    at("kind"),
                    kube_proxy::KIND,
                    kube_proxy::API_VERSION
                ));
                return;
            }
        };
        if !self.kinds.insert(kind) {
            self.problems
                .push(format!("{}a second {kind}; one per file", at("kind")));
            return;
        }
        self.take(translation, kind, at);
    }

    /// Flags of the command line, in kube-proxy's words and in ours: they win over the file.
    pub fn flags(&mut self, flags: &Flags) {
        let mut said = Self::default();
        let mut translation = kube_proxy::translate(&Value::Object(flags.kube_proxy.clone()));
        for (name, value) in &flags.ours {
            translation.set(name, name, value.clone());
        }
        said.take(translation, kube_proxy::KIND, |_| "command line: ".to_owned());
        self.fields.append(&mut said.fields);
        self.defaults.append(&mut said.defaults);
        self.notes.append(&mut said.notes);
        self.problems.append(&mut said.problems);
    }

    fn take(&mut self, translation: Translation, kind: &str, at: impl Fn(&str) -> String) {
        for (path, why) in translation.problems {
            let why = if why.is_empty() {
                format!("field of {kind} that this version does not support")
            } else {
                why
            };
            self.problems.push(format!("{}{path}: {why}", at(&path)));
        }
        for Setting { path, ours, value } in translation.settings {
            // Each by itself, so that what is wrong is told with its name.
            let one = Map::from_iter([(ours.clone(), value.clone())]);
            if let Err(error) = serde_json::from_value::<Config>(Value::Object(one)) {
                self.problems.push(format!("{}{path}: {error}", at(&path)));
            } else if self.fields.get(&ours).is_some_and(|other| *other != value) {
                self.problems.push(format!(
                    "{}{path}: contradicts {ours} of the other document",
                    at(&path)
                ));
            } else {
                self.fields.insert(ours, value);
            }
        }
        for (ours, value) in translation.defaults {
            self.defaults.insert(ours.to_owned(), value);
        }
        self.notes.extend(translation.notes);
    }
}

fn ours<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>) -> Translation {
    let mut translation = Translation::default();
    let known = serde_json::to_value(Config::default()).unwrap_or_default();
    for (name, value) in fields {
        if known.get(name).is_some() {
            translation.set(name, name, value.clone());
        } else {
            translation.refuse(name, "");
        }
    }
    translation
}

fn kubelet<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>) -> Translation {
    let mut translation = Translation::default();
    for (name, value) in fields {
        match KUBELET_FIELDS.iter().find(|(theirs, _)| theirs == name) {
            Some((_, ours)) => translation.set(name, ours, value.clone()),
            None => translation.refuse(name, ""),
        }
    }
    translation
}
