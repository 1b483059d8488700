//! MAC addresses of pod links: fixed by the attachment's key, so that nothing on the machine feels called to choose one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Six bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The pod's end of the link with this key hash. Locally administered, unicast.
    #[must_use]
    pub const fn of_pod(hash: u64) -> Self {
        Self::derived(0x0a, hash)
    }

    /// The host's end.
    #[must_use]
    pub const fn of_host(hash: u64) -> Self {
        Self::derived(0x0e, hash)
    }

    const fn derived(first: u8, hash: u64) -> Self {
        let b = hash.to_be_bytes();
        Self([first, b[3], b[4], b[5], b[6], b[7]])
    }

    /// `aa:bb:cc:dd:ee:ff`; refuses multicast and all-zero addresses.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+'))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let unicast = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6];
        unicast.then_some(Self(bytes))
    }

    /// From a netlink attribute.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_local_unicast_and_differ_between_the_ends() {
        let (pod, host) = (
            Mac::of_pod(0x1122_3344_5566_7788),
            Mac::of_host(0x1122_3344_5566_7788),
        );
        assert_ne!(pod, host);
        for mac in [pod, host] {
            assert_eq!(mac.0[0] & 3, 2);
            assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
        }
    }

    #[test]
    fn only_unicast_addresses_parse() {
        assert_eq!(Mac::parse("02-00-00-00-00-1f"), Some(Mac([2, 0, 0, 0, 0, 0x1f])));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "+2:00:00:00:00:01",
            "2:0:0:0:0:1",
        ] {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
    }
}
