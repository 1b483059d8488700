//! ADD: gives the pod its link, its address and its routes.
//!
//! The same key always gets the same answer: an attachment that is whole is answered again, one that a crash left is
//! taken apart and made anew with its address. Only a link that is not ours is an error.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde_json::Map;

use super::Call;
use crate::{
    attach::{self, Failure, GATEWAY, Wiring},
    conf::Settings,
    datapath::{self, Datapath, Look},
    error::{Code, Error, Result},
    ipam::Range,
    mac::Mac,
    netlink::Netlink,
    netns::{self, Namespace},
    node,
    result::{Interface, Ip, NetworkResult, Route},
    store::{Ask, Attachment, Phase, Record, Store},
    verify,
};

/// Runs ADD and returns the result.
pub fn run(call: &Call) -> Result<String> {
    let settings = call.conf.settings()?;
    let request = call.conf.request(&call.env.arguments()?)?;
    let mut node = Netlink::open("the node")?;
    let datapath = datapath::ready(settings, &call.conf.name, &mut node, Look::Quick)?;
    let store = node::open_store(&settings.run, &call.conf.name, &node)?;
    let namespace = call.namespace()?;
    let mut pod = namespace.netlink()?;
    let mut attachment = store.lock(&call.key()?, call.deadline)?;
    let mut job = Job {
        call,
        settings,
        store: &store,
        node: &mut node,
        datapath: &datapath,
    };
    let found = job.found(&attachment, &mut pod)?;
    let record = match found {
        Some(record) => record,
        None => {
            let blank = job.blank(&pod, request.mac)?;
            let ask = Ask {
                range: Range::new(settings.pod_cidr),
                reserved: &settings.reserved,
                address: request.address,
                now_ms: blank.created_ms,
            };
            let record = store.reserve(&mut attachment, blank, &ask, call.deadline)?;
            match job.make(&record, &namespace, &mut pod) {
                Ok(host) => {
                    let record = Record {
                        phase: Phase::Committed,
                        host_ifindex: host,
                        ..record
                    };
                    attachment.save(&record)?;
                    record
                }
                Err(error) => {
                    let hash = record.key.hash();
                    let released = store.release(attachment, false, hash, record.created_ms, call.deadline);
                    return Err(match released {
                        Ok(()) => error,
                        Err(also) => error.details(format!("and could not release its address: {also}")),
                    });
                }
            }
        }
    };
    let result = result(&record, call)?.after(call.conf.prev_result.clone());
    Ok(result.to_json(call.conf.version)?.to_string())
}

struct Job<'a> {
    call: &'a Call,
    settings: &'a Settings,
    store: &'a Store,
    node: &'a mut Netlink,
    datapath: &'a dyn Datapath,
}

impl Job<'_> {
    /// Looks at what an earlier call left: the record of a whole attachment. What is not whole is taken apart.
    fn found(&mut self, attachment: &Attachment, pod: &mut Netlink) -> Result<Option<Record>> {
        let Some(record) = attachment.record() else {
            return Ok(None);
        };
        if record.phase == Phase::Committed && record.netns_cookie == pod.cookie()? {
            let wiring = Wiring::of(record)?;
            let seen = verify::observe(&wiring, self.node, pod, self.datapath)?;
            if verify::differences(&wiring, self.datapath.blocks(), &seen).is_empty() {
                return Ok(Some(record.clone()));
            }
        }
        attach::detach(&record.key, &record.addresses, self.node, Some(self.datapath))?;
        Ok(None)
    }

    fn blank(&mut self, pod: &Netlink, mac: Option<Mac>) -> Result<Record> {
        let key = self.call.key()?;
        let hash = key.hash();
        let mtu = match self.settings.mtu {
            // Without any default route there is no outside to agree with.
            0 => self.node.uplink_mtu()?.unwrap_or(1500),
            mtu => mtu,
        };
        Ok(Record {
            key,
            stamp: self.store.stamp(),
            pod: self.call.env.arguments()?.pod,
            phase: Phase::Reserved,
            addresses: Vec::new(),
            epoch: 0,
            netns: self.call.env.netns.clone().unwrap_or_default(),
            netns_cookie: pod.cookie()?,
            host_ifindex: 0,
            mtu,
            pod_mac: mac.unwrap_or_else(|| Mac::of_pod(hash)),
            host_mac: Mac::of_host(hash),
            created_ms: netns::boot_clock_ms()?,
        })
    }

    /// Makes the link. One of our name without a record is what a lost store left; it is made anew.
    fn make(&mut self, record: &Record, namespace: &Namespace, pod: &mut Netlink) -> Result<u32> {
        let wiring = Wiring::of(record)?;
        for last in [false, true] {
            match attach::attach(&wiring, self.node, namespace, pod, self.datapath) {
                Ok(link) => return Ok(link.index),
                Err(Failure::Failed(error)) => return Err(error),
                Err(Failure::Exists) if last => break,
                Err(Failure::Exists) => {
                    let ours = self.node.link(&wiring.key.host_ifname())?;
                    if ours.is_none_or(|link| !link.alias.is_empty() && link.alias != wiring.key.alias()) {
                        break;
                    }
                    attach::detach(&wiring.key, &[], self.node, Some(self.datapath))?;
                    self.store
                        .release_strays(record, record.created_ms, self.call.deadline)?;
                }
            }
        }
        Err(Error::new(
            Code::Mismatch,
            format!(
                "interface {} already exists in {}, and is not of this attachment",
                wiring.key.ifname,
                record.netns.display()
            ),
        )
        .details("DEL what made it, or choose another CNI_IFNAME"))
    }
}

/// The answer for a record.
fn result(record: &Record, call: &Call) -> Result<NetworkResult> {
    let address = Wiring::of(record)?.address;
    let interface = |name: String, mac: Mac, sandbox: String| Interface {
        name,
        mac: mac.to_string(),
        mtu: Some(record.mtu),
        sandbox,
        ..Interface::default()
    };
    Ok(NetworkResult {
        interfaces: vec![
            interface(record.key.host_ifname(), record.host_mac, String::new()),
            interface(
                record.key.ifname.clone(),
                record.pod_mac,
                record.netns.display().to_string(),
            ),
        ],
        ips: vec![Ip {
            address: IpNet::from(IpAddr::V4(address)),
            gateway: Some(IpAddr::V4(GATEWAY)),
            interface: Some(1),
        }],
        routes: vec![Route {
            dst: IpNet::V4(Ipv4Net::default()),
            gw: Some(IpAddr::V4(GATEWAY)),
            more: Map::new(),
        }],
        dns: call.conf.dns.clone(),
    })
}
