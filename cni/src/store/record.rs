//! What is written down about one attachment. Pure: bytes to value and back.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    ipam::{Stamp, codec_crc32},
    key::Key,
    mac::Mac,
};

const MARK: &str = "keelson-attachment 1";

/// How far an attachment has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has an address; links may or may not be there. Without a lock on the record: a crash.
    Reserved,
    /// ADD answered.
    Committed,
}

/// One attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Who.
    pub key: Key,
    /// Boot and node namespace.
    pub stamp: Stamp,
    /// The Kubernetes pod (namespace/name), if a kubelet's runtime called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How far.
    pub phase: Phase,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Of the addresses, and of the endpoint entries.
    pub epoch: u32,
    /// Path of the pod's namespace, as the runtime named it.
    pub netns: PathBuf,
    /// SO_NETNS_COOKIE of the pod's namespace.
    pub netns_cookie: u64,
    /// Index of the host's end, once it is there.
    pub host_ifindex: u32,
    /// MTU of both ends.
    pub mtu: u32,
    /// MAC of the pod's end.
    pub pod_mac: Mac,
    /// MAC of the host's end.
    pub host_mac: Mac,
    /// When ADD began, in milliseconds of the boot clock.
    pub created_ms: u64,
}

impl Record {
    /// The IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
    }

    /// As bytes: a line with a checksum, then JSON that people can read.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // A record is plain data: there is no value of it that JSON cannot write.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{MARK} {:08x}\n{json}\n", codec_crc32(json.as_bytes())).into_bytes()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let (line, json) = text.split_once('\n').ok_or("no first line")?;
        let json = json.strip_suffix('\n').ok_or("the end is missing")?;
        let sum = line
            .strip_prefix(MARK)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or("the first line is wrong")?;
        if sum != format!("{:08x}", codec_crc32(json.as_bytes())) {
            return Err("the checksum is wrong".to_owned());
        }
        serde_json::from_str(json).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_found() {
        let record = Record {
            key: Key {
                network: "n".into(),
                container: "c".into(),
                ifname: "eth0".into(),
            },
            stamp: Stamp {
                boot: [7; 16],
                netns: u64::MAX,
            },
            pod: Some("default/web".into()),
            phase: Phase::Committed,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            epoch: 3,
            netns: "/run/netns/x".into(),
            netns_cookie: 9,
            host_ifindex: 4,
            mtu: 1500,
            pod_mac: Mac::of_pod(1),
            host_mac: Mac::of_host(1),
            created_ms: 8,
        };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
