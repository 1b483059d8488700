//! Results of every version, there and back.

use super::*;

fn sample() -> NetworkResult {
    NetworkResult {
        interfaces: vec![
            Interface {
                name: "kl1".into(),
                mac: "0e:00:00:00:00:01".into(),
                mtu: Some(1500),
                ..Default::default()
            },
            Interface {
                name: "eth0".into(),
                mac: "0a:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/run/netns/a".into(),
                ..Default::default()
            },
        ],
        ips: vec![Ip {
            address: "10.0.0.2/32".parse().unwrap(),
            gateway: Some("169.254.1.1".parse().unwrap()),
            interface: Some(1),
        }],
        routes: vec![Route {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
            more: Map::new(),
        }],
        dns: Dns {
            nameservers: vec!["10.96.0.10".into()],
            ..Dns::default()
        },
    }
}

#[test]
fn each_version_has_its_own_shape() {
    for version in SpecVersion::ALL {
        let json = sample().to_json(version).unwrap();
        assert_eq!(json["cniVersion"], version.as_str());
        assert_eq!(json["dns"]["nameservers"][0], "10.96.0.10");
        if version < SpecVersion::V0_3_0 {
            assert_eq!(json["ip4"]["ip"], "10.0.0.2/32");
            assert_eq!(json["ip4"]["gateway"], "169.254.1.1");
            assert_eq!(json["ip4"]["routes"][0]["dst"], "0.0.0.0/0");
            assert!(json.get("ips").is_none() && json.get("ip6").is_none());
            continue;
        }
        assert_eq!(json["ips"][0]["address"], "10.0.0.2/32");
        assert_eq!(json["ips"][0]["interface"], 1);
        assert_eq!(json["interfaces"][1]["sandbox"], "/run/netns/a");
        assert!(json["interfaces"][0].get("sandbox").is_none());
        assert_eq!(
            json["ips"][0].get("version").is_some(),
            version < SpecVersion::V1_0_0
        );
        assert_eq!(
            json["interfaces"][1].get("mtu").is_some(),
            version >= SpecVersion::V1_1_0
        );
    }
}

#[test]
fn reading_back_loses_nothing_that_the_version_can_say() {
    assert_eq!(
        NetworkResult::parse(&sample().to_json(SpecVersion::V1_1_0).unwrap()).unwrap(),
        sample()
    );
    let old = NetworkResult::parse(&sample().to_json(SpecVersion::V0_2_0).unwrap()).unwrap();
    assert_eq!(
        (old.ips[0].address, old.routes),
        (sample().ips[0].address, sample().routes)
    );
    for version in [SpecVersion::V0_4_0, SpecVersion::V1_0_0] {
        let read = NetworkResult::parse(&sample().to_json(version).unwrap()).unwrap();
        assert_eq!(read.ips, sample().ips);
    }
}

#[test]
fn fields_of_other_plugins_survive_a_chain() {
    let earlier = json!({"interfaces": [{"name": "net1", "socketPath": "/s"}], "ips": null,
        "routes": [{"dst": "10.1.0.0/16", "mtu": 1400, "table": 7}]});
    let chained = sample().after(Some(NetworkResult::parse(&earlier).unwrap()));
    let json = chained.to_json(SpecVersion::V1_1_0).unwrap();
    assert_eq!(json["interfaces"][0]["socketPath"], "/s");
    assert_eq!(json["routes"][0]["table"], 7);
    assert_eq!(json["ips"][0]["interface"], 2);
    let (interface, ips) = chained.container_interface("eth0").unwrap();
    assert_eq!((interface.mac.as_str(), ips.len()), ("0a:00:00:00:00:01", 1));
}

#[test]
fn nonsense_is_refused() {
    for wrong in [
        json!(1),
        json!({"ips": [{"address": "10.0.0.1"}]}),
        json!({"ips": [{"address": "10.0.0.1/24", "interface": 3}]}),
        json!({"ip4": {"ip": 1}}),
        json!({"interfaces": {}}),
    ] {
        assert!(NetworkResult::parse(&wrong).is_err(), "{wrong}");
    }
    assert!(NetworkResult::default().to_json(SpecVersion::V0_2_0).is_err());
}
