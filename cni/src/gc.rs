//! Garbage collection: compares records, links and endpoint entries, and removes what nobody owns. What is locked is in
//! flight and never touched.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::{
    attach,
    datapath::Datapath,
    error::Result,
    key::{self, Key},
    mac::Mac,
    netlink::{Netlink, link::Link},
    store::{Attachment, Deadline, Phase, Record, Store},
};

/// Who is still wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Not known: only what a crash left behind is removed.
    Unknown,
    /// These attachments (container id, interface name) of the network, and no others.
    Only(HashSet<(String, String)>),
    /// These and no other Kubernetes pods. For a node agent, which knows the pods of its runtime, and can neither keep
    /// new ones from being made meanwhile (those made after `as_of_ms` of the boot clock stay) nor speak for containers
    /// that somebody else attached (those stay, too, unless a crash left them).
    OnlyAsOf {
        /// The list.
        these: HashSet<(String, String)>,
        /// When it was made.
        as_of_ms: u64,
    },
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Attachments that were taken apart.
    pub attachments: Vec<Key>,
    /// Links of this network that no record knew.
    pub links: Vec<String>,
    /// Endpoint entries without a link.
    pub endpoints: Vec<IpAddr>,
    /// Attachments in flight, which were left alone.
    pub busy: usize,
    /// What could not be removed, in words; the next run tries again.
    pub failures: Vec<String>,
}

/// What to do with one attachment that is not in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Keep,
    Remove,
}

/// Pure: the fate of an unlocked attachment. `record` is `None` for one that is empty or damaged.
fn judge(record: Option<&Record>, hash: u64, damaged: bool, network: &str, wanted: &Wanted) -> Verdict {
    let listed = |these: &HashSet<(String, String)>| match record {
        Some(record) => these.contains(&(record.key.container.clone(), record.key.ifname.clone())),
        // Without a readable record the file's name still tells.
        None => these.iter().any(|(container, ifname)| {
            Key {
                network: network.to_owned(),
                container: container.clone(),
                ifname: ifname.clone(),
            }
            .hash()
                == hash
        }),
    };
    let keep = match wanted {
        // Not locked and not committed: the process that made it is gone.
        Wanted::Unknown => record.is_some_and(|r| r.phase == Phase::Committed) || damaged,
        Wanted::Only(these) => listed(these),
        Wanted::OnlyAsOf { these, as_of_ms } => {
            let stays = |r: &Record| r.pod.is_none() || r.created_ms >= *as_of_ms;
            listed(these) || damaged || record.is_some_and(|r| r.phase == Phase::Committed && stays(r))
        }
    };
    if keep { Verdict::Keep } else { Verdict::Remove }
}

/// Removes what nobody owns of one network. Goes on after failures, and reports them.
pub fn collect(
    store: &Store,
    wanted: &Wanted,
    node: &mut Netlink,
    datapath: Option<&dyn Datapath>,
    now_ms: u64,
    deadline: Deadline,
) -> Result<Report> {
    let mut report = Report::default();
    let mut known = HashSet::new();
    for (hash, attachment) in store.attachments()? {
        known.insert(hash);
        let Some(attachment) = attachment else {
            report.busy += 1;
            continue;
        };
        let (record, damaged) = (attachment.record().cloned(), attachment.damaged());
        if judge(record.as_ref(), hash, damaged, store.network(), wanted) == Verdict::Keep {
            continue;
        }
        match remove(
            store,
            attachment,
            record.as_ref(),
            hash,
            node,
            datapath,
            now_ms,
            deadline,
        ) {
            Ok(()) => report.attachments.extend(record.map(|r| r.key)),
            Err(error) => report.failures.push(format!("attachment {hash:016x}: {error}")),
        }
    }
    stray_links(
        store,
        wanted,
        &known,
        node,
        datapath,
        (now_ms, deadline),
        &mut report,
    )?;
    // A pool that a crash left half-way is repaired by whoever opens it.
    store.usage(None, now_ms, deadline)?;
    if let Some(datapath) = datapath {
        stray_endpoints(node, datapath, &mut report)?;
    }
    Ok(report)
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename the arguments"
)]
fn remove(
    store: &Store,
    attachment: Attachment,
    record: Option<&Record>,
    hash: u64,
    node: &mut Netlink,
    datapath: Option<&dyn Datapath>,
    now_ms: u64,
    deadline: Deadline,
) -> Result<()> {
    let addresses = record.map(|r| r.addresses.clone()).unwrap_or_default();
    let linked = attach::detach_hash(hash, &addresses, node, datapath)?;
    store.release(attachment, linked, hash, now_ms, deadline)
}

/// Links that say they are of this network, and have no record: what remains where the store was lost.
fn stray_links(
    store: &Store,
    wanted: &Wanted,
    known: &HashSet<u64>,
    node: &mut Netlink,
    datapath: Option<&dyn Datapath>,
    (now_ms, deadline): (u64, Deadline),
    report: &mut Report,
) -> Result<()> {
    let scope = key::alias_scope(store.network());
    for link in node.links()? {
        let Some(hash) = key::hash_of_host_ifname(&link.name) else {
            continue;
        };
        if !link.alias.starts_with(&scope) || known.contains(&hash) {
            continue;
        }
        // An ADD may have begun since the records were listed: then it holds the lock, or has written a record.
        let Some(attachment) = store.claim(hash)? else {
            report.busy += 1;
            continue;
        };
        if attachment.record().is_some() || attachment.damaged() {
            continue;
        }
        if *wanted != Wanted::Unknown && judge(None, hash, false, store.network(), wanted) == Verdict::Keep {
            attachment.remove()?;
            continue;
        }
        match remove(store, attachment, None, hash, node, datapath, now_ms, deadline) {
            Ok(()) => report.links.push(link.name),
            Err(error) => report.failures.push(format!("link {}: {error}", link.name)),
        }
    }
    Ok(())
}

/// Entries whose link is gone. The entries are listed first: ADD makes the link before the entry, so an entry that was
/// seen has its link among those listed afterwards, unless it is stale.
fn stray_endpoints(node: &mut Netlink, datapath: &dyn Datapath, report: &mut Report) -> Result<()> {
    let entries = datapath.endpoints()?;
    let links: HashMap<u32, Link> = node.links()?.into_iter().map(|link| (link.index, link)).collect();
    for (address, entry) in entries {
        let alive = links
            .get(&entry.ifindex)
            .is_some_and(|link| link.mac == Mac(entry.host_mac));
        // It may have been replaced meanwhile by one that is alive.
        if alive || datapath.endpoint(address)? != Some(entry) {
            continue;
        }
        match datapath.remove_endpoint(address) {
            Ok(()) => report.endpoints.push(address.into()),
            Err(error) => report
                .failures
                .push(format!("endpoint entry of {}: {error}", IpAddr::from(address))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Stamp;

    fn record(container: &str, phase: Phase, created_ms: u64) -> Record {
        let key = Key {
            network: "n".into(),
            container: container.into(),
            ifname: "eth0".into(),
        };
        let hash = key.hash();
        Record {
            key,
            stamp: Stamp::default(),
            pod: Some(format!("default/{container}")),
            phase,
            addresses: vec![],
            epoch: 1,
            netns: "/x".into(),
            netns_cookie: 1,
            host_ifindex: 1,
            mtu: 1500,
            pod_mac: Mac::of_pod(hash),
            host_mac: Mac::of_host(hash),
            created_ms,
        }
    }

    #[test]
    fn who_stays_and_who_goes() {
        use Phase::{Committed, Reserved};
        use Verdict::{Keep, Remove};
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|n| ((*n).to_owned(), "eth0".to_owned()))
                .collect::<HashSet<_>>()
        };
        let only = |names: &[&str]| Wanted::Only(list(names));
        let as_of = |names: &[&str]| Wanted::OnlyAsOf {
            these: list(names),
            as_of_ms: 100,
        };
        for (container, phase, created, wanted, verdict) in [
            ("a", Committed, 0, Wanted::Unknown, Keep),
            ("a", Reserved, 0, Wanted::Unknown, Remove),
            ("a", Committed, 0, only(&["a"]), Keep),
            ("a", Reserved, 0, only(&["a"]), Keep),
            ("a", Committed, 0, only(&["b"]), Remove),
            ("a", Committed, 200, only(&[]), Remove),
            ("a", Committed, 50, as_of(&["b"]), Remove),
            ("a", Committed, 100, as_of(&["b"]), Keep),
            ("a", Reserved, 100, as_of(&["b"]), Remove),
            ("a", Reserved, 0, as_of(&["a"]), Keep),
        ] {
            let record = record(container, phase, created);
            let got = judge(Some(&record), record.key.hash(), false, "n", &wanted);
            assert_eq!(got, verdict, "{container} {phase:?} {created} {wanted:?}");
        }
    }

    #[test]
    fn an_agent_does_not_speak_for_containers_of_others() {
        let as_of = Wanted::OnlyAsOf {
            these: HashSet::new(),
            as_of_ms: 100,
        };
        for (phase, verdict) in [
            (Phase::Committed, Verdict::Keep),
            (Phase::Reserved, Verdict::Remove),
        ] {
            let record = Record {
                pod: None,
                ..record("nerdctl", phase, 0)
            };
            assert_eq!(
                judge(Some(&record), record.key.hash(), false, "n", &as_of),
                verdict
            );
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_judged_by_its_name() {
        let hash = record("a", Phase::Committed, 0).key.hash();
        let wanted = Wanted::Only(HashSet::from([("a".to_owned(), "eth0".to_owned())]));
        assert_eq!(judge(None, hash, true, "n", &wanted), Verdict::Keep);
        assert_eq!(judge(None, hash + 1, true, "n", &wanted), Verdict::Remove);
        assert_eq!(judge(None, hash, true, "n", &Wanted::Unknown), Verdict::Keep);
        assert_eq!(
            judge(None, hash, false, "n", &Wanted::Unknown),
            Verdict::Remove,
            "an empty file is a crash's"
        );
    }
}
