//! Manifests: documents of files become the objects a node runs, or a report of what is wrong with them.

pub mod document;
