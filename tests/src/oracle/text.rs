//! Addresses and networks as people write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// kube-proxy's rule: an IPv4 address may have leading zeros, which mean nothing; all else is as the standard writes it.
pub fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let parts: Vec<&str> = text.split('.').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 4 || !parts.iter().all(digits) {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(parts) {
        let number = part.trim_start_matches('0');
        *octet = if number.is_empty() {
            0
        } else {
            number.parse().ok()?
        };
    }
    Some(Ipv4Addr::from(octets).into())
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u32,
}

/// kube-proxy's rule: white space around a network means nothing.
pub fn network(text: &str) -> Option<Network> {
    let (start, length) = text.trim().split_once('/')?;
    let address = address(start)?;
    let length: u32 = length.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then_some(Network { address, length })
}

impl Network {
    /// Of this address's family.
    pub fn is_of_family(&self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4()
    }

    /// Everything.
    pub fn is_everything(&self) -> bool {
        self.length == 0
    }

    /// Whether an address lies in it.
    pub fn contains(&self, other: IpAddr) -> bool {
        let bits = |address| match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let ((own, width), (others, others_width)) = (bits(self.address), bits(other));
        let mask = if self.length == 0 {
            0
        } else {
            u128::MAX << (128 - self.length)
        };
        width == others_width && own & mask == others & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("10.244.0.5", Some("10.244.0.5")),
            ("010.244.000.005", Some("10.244.0.5")),
            ("fd00:0::5", Some("fd00::5")),
            ("10.244.0", None),
            ("10.244.0.256", None),
            ("10.244..5", None),
            ("10.244.0.+5", None),
            ("None", None),
            ("", None),
            ("fd00::g", None),
        ] {
            let expected = expected.map(|text| text.parse().expect("an address"));
            assert_eq!(address(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_network_holds_what_it_says() {
        let holds = |net: &str, ip: &str| {
            network(net)
                .expect("a network")
                .contains(ip.parse().expect("an address"))
        };
        assert!(holds(" 10.1.2.3/8 ", "10.200.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.168.1.1/32", "192.168.1.1"));
        assert!(!holds("192.168.1.1/32", "192.168.1.2"));
        assert!(holds("fd00:1::/32", "fd00:1:ffff::1"));
        assert!(!holds("fd00:1::/32", "fd00:2::1"));
        assert!(!holds("0.0.0.0/0", "fd00::1") && !holds("::/0", "10.0.0.1"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/", "fd00::/129"] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }
}
