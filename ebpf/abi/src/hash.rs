//! The hash that Maglev tables are asked with: every node must compute the same one.

use crate::FlowKey;

/// Hash of what a client sent, alike on every machine.
///
/// Rounds of multiply and shift over the tuple's words, ended by an avalanche: every bit of the tuple moves every bit of
/// the result. Words are taken as they stand in the packet, so the byte order of the machine is undone first.
#[inline(always)]
pub const fn tuple_hash(key: &FlowKey) -> u32 {
    let mut hash = mix(0x6b65_656c, u32::from_be(key.src.0[0]));
    hash = mix(hash, u32::from_be(key.src.0[1]));
    hash = mix(hash, u32::from_be(key.src.0[2]));
    hash = mix(hash, u32::from_be(key.src.0[3]));
    hash = mix(hash, u32::from_be(key.dst.0[0]));
    hash = mix(hash, u32::from_be(key.dst.0[1]));
    hash = mix(hash, u32::from_be(key.dst.0[2]));
    hash = mix(hash, u32::from_be(key.dst.0[3]));
    let ports = (u16::from_be(key.sport_be) as u32) << 16 | u16::from_be(key.dport_be) as u32;
    hash = mix(hash, ports);
    hash = mix(hash, key.proto as u32);
    avalanche(hash)
}

#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ word.wrapping_mul(0x85eb_ca77))
        .rotate_left(13)
        .wrapping_mul(0xc2b2_ae3d)
        .wrapping_add(0x27d4_eb2f)
}

#[inline(always)]
const fn avalanche(mut hash: u32) -> u32 {
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x2c1b_3c6d);
    hash ^= hash >> 12;
    hash = hash.wrapping_mul(0x297a_2d39);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr;

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey {
            src: Addr::v4(client.to_be()),
            dst: Addr::v4(0x0a60_000a_u32.to_be()),
            sport_be: port.to_be(),
            dport_be: 80_u16.to_be(),
            proto: 6,
            reserved: [0; 3],
        }
    }

    #[test]
    fn clients_and_ports_spread_evenly() {
        const BUCKETS: usize = 64;
        let mut counts = [0_u32; BUCKETS];
        for client in 0..64_u32 {
            for port in 0..1024_u16 {
                counts[tuple_hash(&key(0x0af4_0000 + client, 32_768 + port)) as usize % BUCKETS] += 1;
            }
        }
        // 1024 each on average; ten standard deviations are far more than chance allows.
        assert!(
            counts.iter().all(|count| (704..1344).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_hash_is_the_same_on_every_node_and_in_every_version() {
        assert_eq!(tuple_hash(&key(0x0af4_0102, 5555)), PINNED);
    }
    /// Another value would send the connections of a cluster that is upgraded node by node to two endpoints.
    const PINNED: u32 = 3_084_924_301;
}
