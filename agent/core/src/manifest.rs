//! Manifests: documents of files become the objects a node runs, or a report of what is wrong with them.

pub mod decode;
pub mod defaults;
pub mod document;
pub mod merge;
pub mod names;
pub mod object;
pub mod plan;
pub mod validate;

#[cfg(test)]
mod tests;
