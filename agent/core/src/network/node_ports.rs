//! Which of the node's addresses serve NodePorts, in the configuration's words. What they come to is decided with the Services.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

/// Some of the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's main address of each family.
    Primary,
    /// Those in a network.
    In(IpNet),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        text.parse()
            .map(Self::In)
            .map_err(|_| format!("{text:?} is neither a network such as 192.0.2.0/24 nor \"primary\""))
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::In(net) => net.fmt(f),
        }
    }
}
