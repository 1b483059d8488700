//! The identity of an attachment, and everything whose name follows from it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Marks a link as ours: the link's alias begins with it.
const ALIAS_MARK: &str = "keelson";
/// The kernel keeps aliases up to this length.
const ALIAS_LIMIT: usize = 255;
/// Digits of host link names: the kernel's alphabet is wide, people's is not.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Network, container and interface: the same key is the same attachment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Network name.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl Key {
    /// 64 bits that stand for the key in names and in the address pool. FNV-1a with a final mix: short names that
    /// differ in one letter must differ in all of the link name.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in [&self.network, &self.container, &self.ifname] {
            // 0xff is in no UTF-8 text: "a"+"bc" and "ab"+"c" stay two keys.
            for byte in part.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        // The pool's empty slots have owner 0.
        hash.max(1)
    }

    /// Name of the host's end: `kl` and 13 digits, the longest a link may have.
    #[must_use]
    pub fn host_ifname(&self) -> String {
        host_ifname(self.hash())
    }

    /// The host link's alias: who owns it, for people and for garbage collection.
    #[must_use]
    pub fn alias(&self) -> String {
        let alias = format!("{}{}/{}", self.alias_scope(), self.container, self.ifname);
        if alias.len() <= ALIAS_LIMIT {
            return alias;
        }
        format!("{}#{:016x}/{}", self.alias_scope(), self.hash(), self.ifname)
    }

    fn alias_scope(&self) -> String {
        alias_scope(&self.network)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.ifname)
    }
}

/// The host link's name for a key hash.
#[must_use]
pub fn host_ifname(hash: u64) -> String {
    let digits = (0..13)
        .rev()
        .map(|i| char::from(DIGITS[(hash >> (i * 5)) as usize & 31]));
    "kl".chars().chain(digits).collect()
}

/// The key hash in a host link's name, if it is one.
#[must_use]
pub fn hash_of_host_ifname(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("kl").filter(|digits| digits.len() == 13)?;
    let hash = digits.bytes().try_fold(0_u128, |hash, digit| {
        let value = DIGITS.iter().position(|d| *d == digit)?;
        Some(hash << 5 | value as u128)
    })?;
    u64::try_from(hash).ok()
}

/// How the aliases of a network's links begin.
#[must_use]
pub fn alias_scope(network: &str) -> String {
    format!("{ALIAS_MARK}:{network}/")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(network: &str, container: &str, ifname: &str) -> Key {
        Key {
            network: network.into(),
            container: container.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn names_do_not_change_between_releases() {
        // A plugin of a later release must find the links of an earlier one.
        let key = key("keelson", "0123456789abcdef", "eth0");
        assert_eq!(key.hash(), KNOWN_HASH);
        assert_eq!(key.host_ifname(), KNOWN_NAME);
        assert_eq!(key.alias(), "keelson:keelson/0123456789abcdef/eth0");
    }
    const KNOWN_HASH: u64 = 13_172_899_201_792_120_905;
    const KNOWN_NAME: &str = "klbdkwa0zrdh629";

    #[test]
    fn a_thousand_similar_containers_have_a_thousand_names() {
        let names: HashSet<_> = (0..1000)
            .map(|i| key("n", &format!("pod-{i}"), "eth0").host_ifname())
            .collect();
        assert_eq!(names.len(), 1000);
        assert_ne!(key("a", "bc", "eth0").hash(), key("ab", "c", "eth0").hash());
    }

    #[test]
    fn other_names_have_no_hash() {
        for name in [
            "",
            "eth0",
            "kl",
            "kl000000000000",
            "klzzzzzzzzzzzzz",
            "kl000000000000i",
            "kl00000000000000",
        ] {
            assert_eq!(hash_of_host_ifname(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_fit_the_kernel(network in "[a-z0-9.-]{1,100}", container in "[a-z0-9]{1,300}", ifname in "[a-z0-9]{1,15}") {
            let key = key(&network, &container, &ifname);
            prop_assert_eq!(key.host_ifname().len(), 15);
            prop_assert_eq!(hash_of_host_ifname(&key.host_ifname()), Some(key.hash()));
            prop_assert!(key.alias().len() <= ALIAS_LIMIT);
            prop_assert!(key.alias().starts_with(&alias_scope(&network)));
        }
    }
}
