//! The addresses of a pod network that a pod may have.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A network's usable addresses, numbered from 0. The network and broadcast addresses stay out wherever the network
/// is large enough to have them; the gateway is not part of it (169.254.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    net: Ipv4Net,
}

impl Range {
    /// The usable addresses of `net`.
    #[must_use]
    pub fn new(net: Ipv4Net) -> Self {
        Self { net: net.trunc() }
    }

    /// The network.
    #[must_use]
    pub const fn net(&self) -> Ipv4Net {
        self.net
    }

    /// How many.
    #[must_use]
    pub fn size(&self) -> u32 {
        match self.net.prefix_len() {
            32 => 1,
            31 => 2,
            length => u32::MAX.checked_shr(u32::from(length)).unwrap_or(0) - 1,
        }
    }

    fn first(&self) -> u32 {
        u32::from(self.net.network()) + u32::from(self.net.prefix_len() < 31)
    }

    /// The address at an index below `size`.
    #[must_use]
    pub fn address(&self, index: u32) -> Ipv4Addr {
        self.first().wrapping_add(index).into()
    }

    /// The index of an address, if it is one of these.
    #[must_use]
    pub fn index(&self, address: Ipv4Addr) -> Option<u32> {
        u32::from(address)
            .checked_sub(self.first())
            .filter(|index| *index < self.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_broadcast_addresses_stay_out() {
        for (net, size, first, last) in [
            ("10.0.0.0/24", 254, "10.0.0.1", "10.0.0.254"),
            ("10.0.0.8/30", 2, "10.0.0.9", "10.0.0.10"),
            ("10.0.0.8/31", 2, "10.0.0.8", "10.0.0.9"),
            ("10.0.0.8/32", 1, "10.0.0.8", "10.0.0.8"),
            ("10.0.0.0/8", 16_777_214, "10.0.0.1", "10.255.255.254"),
            ("0.0.0.0/0", u32::MAX - 1, "0.0.0.1", "255.255.255.254"),
        ] {
            let range = Range::new(net.parse().unwrap());
            assert_eq!(range.size(), size, "{net}");
            assert_eq!(range.address(0).to_string(), first);
            assert_eq!(range.address(size - 1).to_string(), last);
            assert_eq!(range.index(first.parse().unwrap()), Some(0));
            assert_eq!(range.index(last.parse().unwrap()), Some(size - 1));
        }
        let range = Range::new("10.0.0.0/24".parse().unwrap());
        for outside in ["10.0.0.0", "10.0.0.255", "9.255.255.255", "10.0.1.1"] {
            assert_eq!(range.index(outside.parse().unwrap()), None, "{outside}");
        }
    }
}
