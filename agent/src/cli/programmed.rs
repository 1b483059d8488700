//! What of the Services stands in the programs' maps: columns of `get services -o wide`, lines of `describe service`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use keelson_core::explain::programmed::Served;
use keelson_proto::keelson::ProgrammedRequest;
use serde_json::Value;

use super::{
    client::{Client, refused, text},
    columns::NONE,
};

/// By namespace and name of the Service.
pub type Programmed = BTreeMap<(String, String), Vec<Served>>;

/// Names of the columns.
pub const COLUMNS: [&str; 4] = ["PROGRAMMED", "ENDPOINTS", "POLICY", "AFFINITY"];

/// Ask the agent.
pub async fn ask(client: &mut Client) -> anyhow::Result<Programmed> {
    let answer = client
        .programmed(ProgrammedRequest {})
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    let mut all = Programmed::new();
    for service in answer.services {
        let served: Result<Vec<Served>, _> = service
            .served
            .iter()
            .map(|one| serde_json::from_slice(one))
            .collect();
        let served = served.context("read the agent's answer")?;
        all.insert((service.namespace, service.name), served);
    }
    Ok(all)
}

/// What is programmed of an object.
pub fn of<'a>(programmed: &'a Programmed, object: &Value) -> &'a [Served] {
    let key = (
        text(object, "/metadata/namespace").to_owned(),
        text(object, "/metadata/name").to_owned(),
    );
    programmed.get(&key).map_or(&[], Vec::as_slice)
}

/// The columns of a Service: addresses by kind, endpoints of its ports (of these on this node), policies, affinity.
pub fn cells(served: &[Served]) -> [String; 4] {
    if served.is_empty() {
        return [NONE, NONE, NONE, NONE].map(str::to_owned);
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for one in served {
        *kinds.entry(&one.entry).or_default() += 1;
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind}:{count}"))
        .collect();
    let distinct = |texts: Vec<String>| {
        let texts: BTreeSet<String> = texts.into_iter().collect();
        texts.into_iter().collect::<Vec<_>>().join(",")
    };
    let endpoints = served
        .iter()
        .map(|one| format!("{} ({} local)", one.endpoints, one.local_endpoints));
    let policies = served.iter().map(|one| one.policy.clone());
    let affinity = served.iter().map(|one| match one.affinity_seconds {
        0 => "None".to_owned(),
        seconds => format!("ClientIP:{seconds}s"),
    });
    [
        kinds.join(","),
        distinct(endpoints.collect()),
        distinct(policies.collect()),
        distinct(affinity.collect()),
    ]
}

/// One line for each address and port.
pub fn lines(served: &[Served]) -> Vec<String> {
    let line = |one: &Served| {
        let mut line = format!(
            "{}/{}  {}, policy {}: {} endpoints, {} on this node",
            one.address, one.protocol, one.entry, one.policy, one.endpoints, one.local_endpoints
        );
        let mut add = |what: &str, holds: bool| {
            if holds {
                line.push_str(&format!("; {what}"));
            }
        };
        let affinity = format!("affinity {} s", one.affinity_seconds);
        add(&affinity, one.affinity_seconds != 0);
        add("by Maglev table", one.maglev);
        add("only some sources", one.source_ranges);
        add("connections to gone endpoints are reset", one.reset_gone);
        line
    };
    served.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(address: &str, entry: &str, policy: &str) -> Served {
        Served {
            address: address.parse().expect("an address"),
            protocol: "TCP".to_owned(),
            entry: entry.to_owned(),
            endpoints: 3,
            local_endpoints: 1,
            policy: policy.to_owned(),
            affinity_seconds: 0,
            maglev: false,
            source_ranges: entry == "LoadBalancer",
            reset_gone: false,
        }
    }

    #[test]
    fn columns_say_what_is_there_once_each() {
        let all = [
            served("10.96.0.1:80", "ClusterIP", "Cluster"),
            served("192.0.2.1:30080", "NodePort", "Local"),
            served("192.0.2.2:30080", "NodePort", "Local"),
        ];
        assert_eq!(
            cells(&all),
            ["ClusterIP:1,NodePort:2", "3 (1 local)", "Cluster,Local", "None"]
        );
        assert_eq!(cells(&[]), [NONE, NONE, NONE, NONE]);
    }

    #[test]
    fn lines_say_it_of_every_address() {
        let lines = lines(&[served("192.0.2.9:80", "LoadBalancer", "Local")]);
        assert_eq!(
            lines,
            ["192.0.2.9:80/TCP  LoadBalancer, policy Local: 3 endpoints, 1 on this node; only some sources"]
        );
    }
}
