//! What a verb can fail with: a code of the CNI specification, a message, and details.

use std::{fmt, io, path::Path};

use serde::Serialize;

use crate::version::SpecVersion;

/// Error codes of the CNI specification; 100 and above are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The configuration's `cniVersion` is unknown, or too old for the verb.
    IncompatibleVersion = 1,
    /// A configured field that this plugin does not do.
    UnsupportedField = 2,
    /// The container (or what CHECK compares) is not known here.
    UnknownContainer = 3,
    /// Missing or malformed `CNI_*` variables.
    InvalidEnvironment = 4,
    /// Files, namespaces, netlink.
    Io = 5,
    /// The input is not the JSON that was promised.
    Decode = 6,
    /// The network configuration makes no sense.
    InvalidNetwork = 7,
    /// `CNI_NETNS` is not a network namespace, or is the node's own.
    InvalidNetns = 8,
    /// Busy or out of time: the same call may succeed later.
    TryAgainLater = 11,
    /// STATUS: the plugin cannot do ADD.
    NotAvailable = 50,
    /// STATUS: the plugin cannot do ADD, and running containers may have lost their network.
    Degraded = 51,
    /// No address left in the pool.
    PoolExhausted = 100,
    /// The attachment is not what its record says (CHECK), or a foreign interface is in the way (ADD).
    Mismatch = 101,
    /// The kernel programs could not be loaded, opened or written.
    Dataplane = 102,
}

/// A failure, as the runtime gets it on standard output.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Error {
    /// The specification's code.
    pub code: Code,
    /// One line: operation, object, cause.
    pub msg: String,
    /// What helps, or more of the cause; may be empty.
    pub details: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, " ({})", self.details)?;
        }
        Ok(())
    }
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// A failed file operation.
    pub fn file(operation: &str, path: &Path, cause: &io::Error) -> Self {
        Self::new(Code::Io, format!("{operation} {}: {cause}", path.display()))
    }

    /// The same error, with what helps.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error, told under another code.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The error object of the specification.
    #[must_use]
    pub fn to_json(&self, version: SpecVersion) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Object<'a> {
            cni_version: &'static str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let object = Object {
            cni_version: version.as_str(),
            code: self.code as u32,
            msg: &self.msg,
            details: &self.details,
        };
        serde_json::to_string(&object).unwrap_or_else(|e| {
            format!(
                "{{\"cniVersion\":\"{version}\",\"code\":{},\"msg\":\"{e}\"}}",
                self.code as u32
            )
        })
    }
}
