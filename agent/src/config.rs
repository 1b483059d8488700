//! The node's configuration.

/// Being written.
pub struct Config {}
