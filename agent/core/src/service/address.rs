//! Addresses as Kubernetes reads them: leading zeros in IPv4 are decimal, IPv4 in its mapped form is IPv4.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An address in any form that Kubernetes accepts.
pub fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    address
        .map(|address| address.to_canonical())
        .or_else(|| sloppy_v4(text))
}

/// A network in CIDR form, white space around it ignored, its host bits cleared.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNet::new(parse(address)?, length.parse().ok()?)
        .ok()
        .map(|net| net.trunc())
}

/// Whether packets can be sent to an endpoint of this address from any node.
pub fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !broadcast
}

/// Old objects hold addresses such as 010.000.000.001; the parser of the standard library takes them for a mistake.
fn sloppy_v4(text: &str) -> Option<IpAddr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal_and_mapped_addresses_are_ipv4() {
        let plain = Some(IpAddr::from([10, 1, 2, 3]));
        assert_eq!(parse("10.1.2.3"), plain);
        assert_eq!(parse("010.001.02.3"), plain);
        assert_eq!(parse("::ffff:10.1.2.3"), plain);
        for bad in [
            "10.1.2",
            "10.1.2.3.4",
            "10.1.2.256",
            "10..2.3",
            "10.1.2.x",
            "",
            "None",
            "1e1.1.1.1",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn networks_lose_white_space_and_host_bits() {
        assert_eq!(
            parse_network(" 10.1.2.3/8 ").map(|net| net.to_string()),
            Some("10.0.0.0/8".into())
        );
        assert_eq!(
            parse_network("2001:db8::1/32").map(|net| net.to_string()),
            Some("2001:db8::/32".into())
        );
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(parse_network(bad), None, "{bad:?}");
        }
    }
}
