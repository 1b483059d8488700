//! Maglev tables: which endpoint answers at each of [`MAGLEV_SIZE`] positions, the same on every node.
//!
//! Every endpoint walks the positions in an order of its own, made from a fixed hash of its address and port; taking turns,
//! each takes the next position that is still free. So all get nearly the same number, and when one endpoint leaves nearly all
//! positions of the others stay. **The order and the hash are part of what nodes agree on**: changing either moves connections
//! while a cluster runs both versions.

use std::net::IpAddr;

use keelson_abi::{Backend, MAGLEV_SIZE};

const SIZE: usize = MAGLEV_SIZE as usize;
const FREE: u16 = u16::MAX;

/// Slot by position. `endpoints` in their canonical order (address, then port), at most 65,535 of them; empty for none.
pub fn table(endpoints: &[Backend]) -> Vec<u16> {
    if endpoints.is_empty() || endpoints.len() > usize::from(FREE) {
        return Vec::new();
    }
    // (next position, step) of every endpoint.
    let mut walks: Vec<(usize, usize)> = endpoints.iter().map(walk).collect();
    let mut table = vec![FREE; SIZE];
    let mut taken = 0;
    loop {
        for (slot, (next, step)) in (0_u16..).zip(&mut walks) {
            // The size is prime, so every walk passes every position before it repeats: a free one is found.
            while table[*next] != FREE {
                *next = (*next + *step) % SIZE;
            }
            table[*next] = slot;
            taken += 1;
            if taken == SIZE {
                return table;
            }
        }
    }
}

fn walk(endpoint: &Backend) -> (usize, usize) {
    let address: IpAddr = endpoint.addr.into();
    let port = u16::from_be(endpoint.port_be);
    let size = u64::from(MAGLEV_SIZE);
    let start = hash(address, port, 0x6b65_656c) % size;
    let step = hash(address, port, 0x736f_6e31) % (size - 1) + 1;
    (start as usize, step as usize)
}

/// FNV-1a over the bytes as they stand on the wire, then a finishing mix: FNV alone leaves the low bits of neighbours alike.
fn hash(address: IpAddr, port: u16, seed: u64) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ seed;
    let mut add = |byte: u8| state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    match address {
        IpAddr::V4(v4) => v4.octets().into_iter().for_each(&mut add),
        IpAddr::V6(v6) => v6.octets().into_iter().for_each(&mut add),
    }
    port.to_be_bytes().into_iter().for_each(&mut add);
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^= state >> 33;
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn endpoints(count: u32) -> Vec<Backend> {
        let endpoint = |number: u32| Backend {
            addr: IpAddr::from((0x0af4_0000 + number).to_be_bytes()).into(),
            port_be: 8080_u16.to_be(),
            flags: 0,
        };
        (1..=count).map(endpoint).collect()
    }

    /// By endpoint and not by slot, which moves when others leave.
    fn named(table: &[u16], endpoints: &[Backend]) -> Vec<Backend> {
        table.iter().map(|slot| endpoints[usize::from(*slot)]).collect()
    }

    #[test]
    fn every_position_has_an_endpoint_and_all_have_nearly_as_many() {
        for count in [1, 2, 3, 10, 100] {
            let table = table(&endpoints(count));
            assert_eq!(table.len(), SIZE);
            let mut shares = vec![0_usize; count as usize];
            table.iter().for_each(|slot| shares[usize::from(*slot)] += 1);
            let (least, most) = (
                shares.iter().min().expect("one"),
                shares.iter().max().expect("one"),
            );
            assert!(most - least <= 1, "{count} endpoints: {least} to {most}");
        }
    }

    #[test]
    fn an_endpoint_that_leaves_moves_few_of_the_others_positions() {
        let all = endpoints(100);
        let before = named(&table(&all), &all);
        for gone in [0, 41, 99] {
            let mut rest = all.clone();
            rest.remove(gone);
            let after = named(&table(&rest), &rest);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(old, new)| **old != all[gone] && old != new)
                .count();
            assert!(
                moved * 50 <= SIZE,
                "{moved} of {SIZE} positions moved though their endpoint stayed"
            );
        }
    }

    #[test]
    fn an_endpoint_that_joins_takes_its_share_and_little_else() {
        let all = endpoints(100);
        let before = named(&table(&all[1..]), &all[1..]);
        let after = named(&table(&all), &all);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(old, new)| **new != all[0] && old != new)
            .count();
        assert!(moved * 50 <= SIZE, "{moved} of {SIZE}");
    }

    /// The table is a contract between nodes: a change of it is a change of the layout version.
    #[test]
    fn the_table_is_the_same_as_ever() {
        let mixed = [
            endpoints(2)[0],
            endpoints(2)[1],
            Backend {
                addr: IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)).into(),
                port_be: 53_u16.to_be(),
                flags: 0,
            },
        ];
        let digest = table(&mixed).iter().fold(0_u64, |sum, slot| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*slot))
        });
        assert_eq!(digest, 1_244_956_654_056_970_752);
    }

    #[test]
    fn nobody_and_too_many_give_no_table() {
        assert!(table(&[]).is_empty());
        assert!(table(&endpoints(65_536)).is_empty());
    }
}
