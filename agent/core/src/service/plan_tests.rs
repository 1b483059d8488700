//! What reading and following maps means.

use std::net::IpAddr;

use super::*;

fn backend(last: u8) -> Backend {
    Backend {
        addr: IpAddr::from([10, 244, 0, last]).into(),
        port_be: 8080_u16.to_be(),
        flags: 0,
    }
}

/// Maps in which Service 7 has so many slots under revision 3.
fn maps(slots: u8) -> (Observed, Frontend) {
    let mut maps = Observed::default();
    let all: Vec<Backend> = (0..slots).map(backend).collect();
    for (block, chunk) in (0..).zip(all.chunks(BACKEND_BLOCK as usize)) {
        let mut value = BackendBlock::default();
        value.slots[..chunk.len()].copy_from_slice(chunk);
        let key = BackendKey {
            service: 7,
            revision: 3,
            block,
        };
        maps.follow(&Write::PutBackend(key, value));
    }
    let frontend = Frontend {
        service: 7,
        revision: 3,
        count: u32::from(slots),
        ..Frontend::default()
    };
    (maps, frontend)
}

#[test]
fn slots_are_read_across_blocks_and_a_hole_is_noticed() {
    for slots in [0, 1, 4, 5, 9] {
        let (maps, frontend) = maps(slots);
        let expected: Vec<Backend> = (0..slots).map(backend).collect();
        assert_eq!(maps.slots(&frontend), Some(expected), "{slots}");
    }
    let (mut maps, frontend) = maps(9);
    let key = BackendKey {
        service: 7,
        revision: 3,
        block: 1,
    };
    maps.follow(&Write::RemoveBackend(key));
    assert_eq!(maps.slots(&frontend), None);
}

#[test]
fn what_is_put_is_there_and_what_is_removed_is_gone() {
    let mut maps = Observed::default();
    let member = MemberKey {
        service: 7,
        ..MemberKey::default()
    };
    let range = SourceRangeKey {
        length: 32,
        service_be: 7_u32.to_be(),
        ..SourceRangeKey::default()
    };
    let frontend = FrontendKey::default();
    let puts = [
        Write::PutMember(member, Member::default()),
        Write::PutRange(range),
        Write::PutFrontend(frontend, Frontend::default()),
    ];
    puts.iter().for_each(|write| maps.follow(write));
    assert_eq!(maps.ids(), BTreeSet::from([7]));
    assert_eq!((maps.members_of(7).count(), maps.members_of(8).count()), (1, 0));
    assert_eq!((maps.ranges_of(7).count(), maps.ranges_of(6).count()), (1, 0));
    let removes = [
        Write::RemoveMember(member),
        Write::RemoveRange(range),
        Write::RemoveFrontend(frontend),
    ];
    removes.iter().for_each(|write| maps.follow(write));
    assert_eq!(maps, Observed::default());
}
