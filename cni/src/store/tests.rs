//! The store on real files, in temporary folders; damage done by hand.

use std::{
    fs,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;
use crate::{ipam::COOL_DOWN_MS, mac::Mac};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("keelson-cni-store-{}-{id}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn store(&self) -> Store {
        self.store_of(STAMP, Vec::new())
    }
    fn store_of(&self, stamp: Stamp, evidence: Vec<(u64, Ipv4Addr)>) -> Store {
        Store::open(&self.0, "net", stamp, Box::new(move || evidence.clone())).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const STAMP: Stamp = Stamp {
    boot: [1; 16],
    netns: 7,
};

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(200))
}

fn key(container: &str) -> Key {
    Key {
        network: "net".into(),
        container: container.into(),
        ifname: "eth0".into(),
    }
}

fn blank(store: &Store, container: &str) -> Record {
    let key = key(container);
    let hash = key.hash();
    Record {
        key,
        stamp: store.stamp(),
        pod: None,
        phase: Phase::Reserved,
        addresses: vec![],
        epoch: 0,
        netns: "/none".into(),
        netns_cookie: 0,
        host_ifindex: 0,
        mtu: 1500,
        pod_mac: Mac::of_pod(hash),
        host_mac: Mac::of_host(hash),
        created_ms: 0,
    }
}

fn ask(net: &str, now_ms: u64) -> Ask<'static> {
    Ask {
        range: Range::new(net.parse().unwrap()),
        reserved: &[],
        address: None,
        now_ms,
    }
}

fn add(store: &Store, container: &str, now_ms: u64) -> Result<Record> {
    let mut attachment = store.lock(&key(container), soon())?;
    let mut record = store.reserve(
        &mut attachment,
        blank(store, container),
        &ask("10.0.0.0/29", now_ms),
        soon(),
    )?;
    record.phase = Phase::Committed;
    attachment.save(&record)?;
    Ok(record)
}

fn del(store: &Store, container: &str, now_ms: u64) {
    let attachment = store.lock(&key(container), soon()).unwrap();
    store
        .release(attachment, false, key(container).hash(), now_ms, soon())
        .unwrap();
}

fn used(store: &Store, now_ms: u64) -> u32 {
    let range = Range::new("10.0.0.0/29".parse().unwrap());
    store.usage(Some(range), now_ms, soon()).unwrap().unwrap().used
}

#[test]
fn no_pod_gets_an_address_that_is_the_nodes_own() {
    let folder = Folder::new();
    let store = folder.store();
    let own = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let add = |container: &str, address: Option<&str>| {
        let mut attachment = store.lock(&key(container), soon()).unwrap();
        let ask = Ask {
            reserved: &own,
            address: address.map(|text| text.parse().unwrap()),
            ..ask("10.0.0.0/29", 0)
        };
        store.reserve(&mut attachment, blank(&store, container), &ask, soon())
    };
    for number in 0..5 {
        let record = add(&format!("c{number}"), None).unwrap();
        assert_ne!(record.addresses, [own[0]]);
    }
    assert!(add("more", None).unwrap_err().to_string().contains("6 in use"));
    assert!(add("named", Some("10.0.0.1")).is_err());
}

#[test]
fn the_same_key_gets_the_same_address_until_it_is_released() {
    let folder = Folder::new();
    let store = folder.store();
    let first = add(&store, "a", 0).unwrap();
    let other = add(&store, "b", 0).unwrap();
    assert_ne!(first.addresses, other.addresses);
    let again = add(&store, "a", 5).unwrap();
    assert_eq!(
        (again.addresses, again.epoch),
        (first.addresses.clone(), first.epoch)
    );
    assert_eq!(used(&store, 5), 2);
    del(&store, "a", 10);
    del(&store, "a", 10);
    assert_eq!(used(&store, 10), 1);
    assert_ne!(
        add(&store, "a", 20).unwrap().addresses,
        first.addresses,
        "it cools down"
    );
    assert!(store.peek(&key("nobody")).unwrap().is_none());
}

#[test]
fn an_exhausted_pool_says_what_it_is_and_what_it_holds() {
    let folder = Folder::new();
    let store = folder.store();
    for i in 0..6 {
        add(&store, &format!("c{i}"), 0).unwrap();
    }
    let error = add(&store, "late", 0).unwrap_err();
    assert_eq!(error.code, Code::PoolExhausted);
    assert!(
        error.msg.contains("10.0.0.0/29") && error.msg.contains("6 addresses, 6 in use, 0 cooling"),
        "{error}"
    );
    del(&store, "c3", 1000);
    let error = add(&store, "late", 11_000).unwrap_err();
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(
        error.msg.contains("5 in use, 1 cooling") && error.details.contains("20 s"),
        "{error}"
    );
    add(&store, "late", 1000 + COOL_DOWN_MS).unwrap();
}

#[test]
fn another_boot_or_namespace_starts_from_nothing() {
    let folder = Folder::new();
    let before = add(&folder.store(), "a", 0).unwrap();
    for stamp in [
        Stamp {
            boot: [2; 16],
            ..STAMP
        },
        Stamp { netns: 8, ..STAMP },
    ] {
        let store = folder.store_of(stamp, vec![]);
        assert!(store.peek(&key("a")).unwrap().is_none());
        assert_eq!(used(&store, 0), 0);
        assert!(store.records().unwrap().is_empty());
        let fresh = add(&store, "b", 0).unwrap();
        assert_eq!(fresh.addresses, before.addresses, "no cool-down over a reboot");
    }
}

#[test]
fn a_lock_that_stays_busy_is_told_with_code_11_and_its_path() {
    let folder = Folder::new();
    let store = folder.store();
    let held = store.lock(&key("a"), soon()).unwrap();
    let error = store.lock(&key("a"), soon()).unwrap_err();
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(
        error.msg.contains(&format!("{:016x}", key("a").hash())),
        "{error}"
    );
    assert!(store.attachments().unwrap()[0].1.is_none(), "in flight");
    drop(held);
    store.lock(&key("a"), soon()).unwrap();
}

#[test]
fn a_lock_on_a_removed_file_guards_nothing_and_is_taken_anew() {
    let folder = Folder::new();
    let store = folder.store();
    add(&store, "a", 0).unwrap();
    let held = store.lock(&key("a"), soon()).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            store
                .lock(&key("a"), Deadline::after(Duration::from_secs(10)))
                .unwrap()
        });
        store.release(held, false, key("a").hash(), 0, soon()).unwrap();
        let attachment = waiter.join().unwrap();
        assert!(attachment.record().is_none());
        assert!(
            store.attachments().unwrap().iter().all(|(_, a)| a.is_none()),
            "the new file is locked"
        );
    });
}

#[test]
fn a_crash_inside_a_change_is_repaired_from_the_records() {
    let folder = Folder::new();
    let store = folder.store();
    let a = add(&store, "a", 0).unwrap();
    // The slot was taken, the process ended before the record was written.
    let crashed: Result<Option<()>> =
        store.change_pool(Some(ask("10.0.0.0/29", 0).range), 0, soon(), |header, table| {
            ipam::allocate(header, table, 4711, 0)?.unwrap();
            Err(ipam::TableError::Io(io::Error::other("killed")))
        });
    assert!(crashed.is_err());
    assert_eq!(used(&store, 0), 1);
    assert_eq!(add(&store, "a", 0).unwrap().addresses, a.addresses);
}

#[test]
fn any_damage_to_the_pool_file_keeps_owners_and_cooling_addresses() {
    let folder = Folder::new();
    let mut records = Vec::new();
    for container in ["a", "b", "c", "d"] {
        records.push(add(&folder.store(), container, 0).unwrap());
    }
    del(&folder.store(), "b", 1000);
    let path = folder.0.join("cni/net/pool");
    let good = fs::read(&path).unwrap();
    let attachments: Vec<_> = fs::read_dir(folder.0.join("cni/net/attachments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let restore = || {
        attachments
            .iter()
            .for_each(|(path, bytes)| fs::write(path, bytes).unwrap())
    };
    let check = |what: &str| {
        let store = folder.store();
        let mut seen: Vec<_> = [0, 2, 3]
            .iter()
            .map(|i: &usize| records[*i].addresses[0])
            .collect();
        for container in ["e", "f", "g"] {
            if let Ok(record) = add(&store, container, 2000) {
                assert!(
                    !seen.contains(&record.addresses[0]),
                    "{what}: {} given twice",
                    record.addresses[0]
                );
                seen.push(record.addresses[0]);
            }
        }
        for container in ["e", "f", "g"] {
            del(&store, container, 2000);
        }
        assert_eq!(used(&store, 2000), 3, "{what}");
    };
    for length in 0..good.len() {
        restore();
        fs::write(&path, &good[..length]).unwrap();
        check(&format!("cut at {length}"));
    }
    for byte in 0..good.len() {
        restore();
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        check(&format!("byte {byte}"));
    }
}

#[test]
fn a_damaged_record_keeps_its_address_by_what_the_machine_shows() {
    let folder = Folder::new();
    let a = add(&folder.store(), "a", 0).unwrap();
    let path = folder
        .0
        .join(format!("cni/net/attachments/{:016x}", key("a").hash()));
    let truncated = fs::read(&path).unwrap().len() as u64 / 2;
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(truncated)
        .unwrap();
    let store = folder.store_of(STAMP, vec![(key("a").hash(), a.ipv4().unwrap())]);
    assert_eq!(add(&store, "a", 0).unwrap().addresses, a.addresses);
    // And with the pool gone as well, nobody else gets it.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"x", 40)
        .unwrap();
    fs::remove_file(folder.0.join("cni/net/pool")).unwrap();
    for container in ["b", "c", "d", "e", "f"] {
        assert_ne!(add(&store, container, 0).unwrap().addresses, a.addresses);
    }
    del(&store, "a", 0);
    assert_eq!(used(&store, 0), 5, "a damaged record releases what its slot says");
}

#[test]
fn a_lost_store_gives_no_address_that_a_link_still_has() {
    let folder = Folder::new();
    let taken: Ipv4Addr = "10.0.0.1".parse().unwrap();
    let store = folder.store_of(STAMP, vec![(key("lost").hash(), taken)]);
    for container in ["b", "c", "d", "e", "f"] {
        assert_ne!(add(&store, container, 0).unwrap().ipv4(), Some(taken));
    }
    assert_eq!(add(&store, "g", 0).unwrap_err().code, Code::PoolExhausted);
    let attachment = store.lock(&key("lost"), soon()).unwrap();
    store
        .release(attachment, true, key("lost").hash(), 0, soon())
        .unwrap();
    assert_eq!(add(&store, "g", COOL_DOWN_MS).unwrap().ipv4(), Some(taken));
}

#[test]
fn a_changed_pod_network_keeps_the_attachments_of_the_old_one() {
    let folder = Folder::new();
    let store = folder.store();
    let a = add(&store, "a", 0).unwrap();
    let mut attachment = store.lock(&key("b"), soon()).unwrap();
    let wide = ask("10.1.0.0/24", 0);
    let b = store
        .reserve(&mut attachment, blank(&store, "b"), &wide, soon())
        .unwrap();
    assert_eq!(b.addresses, vec!["10.1.0.1".parse::<IpAddr>().unwrap()]);
    drop(attachment);
    assert_eq!(store.peek(&key("a")).unwrap().unwrap().addresses, a.addresses);
    del(&store, "a", 0);
    del(&store, "b", 0);
    assert!(store.records().unwrap().is_empty());
}

#[test]
fn threads_at_once_get_different_addresses() {
    let folder = Folder::new();
    let store = folder.store_of(STAMP, vec![]);
    let range = "10.0.0.0/24";
    let addresses: Vec<_> = std::thread::scope(|scope| {
        let one = |i: usize| {
            let store = &store;
            move || {
                let deadline = Deadline::after(Duration::from_secs(20));
                let mut attachment = store.lock(&key(&format!("p{i}")), deadline).unwrap();
                store
                    .reserve(
                        &mut attachment,
                        blank(store, &format!("p{i}")),
                        &ask(range, 0),
                        deadline,
                    )
                    .unwrap()
                    .addresses
            }
        };
        let threads: Vec<_> = (0..32).map(|i| scope.spawn(one(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let distinct: std::collections::HashSet<_> = addresses.iter().collect();
    assert_eq!(distinct.len(), 32);
}
