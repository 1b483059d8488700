//! Addresses of both families in one shape.

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`; network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Addr(pub [u32; 4]);
const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// The IPv4 address whose four bytes, as they stand in a packet, make up `be`.
    #[inline(always)]
    pub const fn v4(be: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), be])
    }
    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }
    /// The last four bytes: the whole of an IPv4 address, as in the packet.
    #[inline(always)]
    pub const fn v4_be(&self) -> u32 {
        self.0[3]
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(ip) => Self::v4(u32::from_ne_bytes(ip.octets())),
            core::net::IpAddr::V6(ip) => {
                let b = ip.octets();
                let mut words = [0; 4];
                for (word, bytes) in words.iter_mut().zip(b.chunks_exact(4)) {
                    *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                Self(words)
            }
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            return core::net::Ipv4Addr::from(addr.v4_be().to_ne_bytes()).into();
        }
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(addr.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        core::net::Ipv6Addr::from(bytes).into()
    }
}
