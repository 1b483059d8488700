//! Tables for the configuration's rules.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "keelson", "type": "keelson-cni", "podCIDR": "10.244.0.0/24"})
}

fn with(extra: Value) -> Vec<u8> {
    let mut conf = base();
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf.to_string().into_bytes()
}

fn parse(extra: Value) -> Result<NetworkConf> {
    NetworkConf::parse(&with(extra), Reading::Whole, true)
}

#[test]
fn errors_have_the_codes_of_the_specification() {
    use Code::{Decode, IncompatibleVersion, InvalidNetwork, UnsupportedField};
    let cases: [(&str, Code); 9] = [
        ("", Decode),
        ("{", Decode),
        ("[]", Decode),
        (r#"{"cniVersion":"1.0.0"}"#, InvalidNetwork),
        (r#"{"cniVersion":"9.9.9"}"#, InvalidNetwork),
        (r#"{"cniVersion":"1.0.0","name":""}"#, InvalidNetwork),
        (r#"{"cniVersion":"1.0.0","name":"../etc"}"#, InvalidNetwork),
        (r#"{"cniVersion":"9.9.9","name":"a"}"#, IncompatibleVersion),
        (r#"{"cniVersion":1,"name":"a"}"#, Decode),
    ];
    for (input, code) in cases {
        for reading in [Reading::Whole, Reading::Lenient] {
            assert_eq!(
                NetworkConf::parse(input.as_bytes(), reading, true)
                    .unwrap_err()
                    .code,
                code,
                "{input}"
            );
        }
    }
    let cases = [
        (json!({"podCIDR": null}), InvalidNetwork),
        (json!({"podCIDR": "10.244.0.7/24"}), InvalidNetwork),
        (json!({"podCIDR": "fd00::/64"}), UnsupportedField),
        (json!({"serviceCIDR": "10.244.0.0/16"}), InvalidNetwork),
        (json!({"nodePortRange": "2-1"}), InvalidNetwork),
        (json!({"mtu": 100}), InvalidNetwork),
        (json!({"podCidr": "10.0.0.0/8"}), UnsupportedField),
        (json!({"ipam": {"type": "host-local"}}), UnsupportedField),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}),
            UnsupportedField,
        ),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1000}}}),
            UnsupportedField,
        ),
        (json!({"prevResult": 1}), Decode),
        (json!({"cni.dev/valid-attachments": {}}), InvalidNetwork),
        (
            json!({"cni.dev/valid-attachments": [{"containerID": "a"}]}),
            InvalidNetwork,
        ),
    ];
    for (extra, code) in cases {
        let error = parse(extra.clone()).unwrap_err();
        assert_eq!(error.code, code, "{extra}: {error}");
    }
}

#[test]
fn an_unsupported_key_is_named() {
    assert!(
        parse(json!({"podCidr": "x"}))
            .unwrap_err()
            .msg
            .contains("podCidr")
    );
    let error = parse(json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080}]}})).unwrap_err();
    assert!(
        error.msg.contains("portMappings") && error.msg.contains("8080"),
        "{error}"
    );
}

#[test]
fn keys_of_the_specification_and_empty_capabilities_pass() {
    let conf = parse(json!({
        "capabilities": {"portMappings": true}, "args": {"cni": {}}, "ipMasq": false, "ipam": {},
        "disableCheck": true, "cni.dev/something": 1, "prevResult": null,
        "runtimeConfig": {"portMappings": [], "bandwidth": {}, "cgroupPath": "/a", "dns": {"servers": ["10.96.0.10"]}},
    }))
    .unwrap();
    assert!(!conf.settings().unwrap().snat);
    assert_eq!(conf.dns.nameservers, ["10.96.0.10"]);
    assert_eq!(conf.valid, ValidAttachments::Unknown);
}

#[test]
fn a_lenient_reading_lets_a_pod_go_away_whatever_the_settings_say() {
    let input = with(
        json!({"podCIDR": "nonsense", "run": "/r", "bpf": "/b", "whatever": 1, "prevResult": 7,
        "dns": 3, "runtimeConfig": {"portMappings": [{"hostPort": 80}]}}),
    );
    let conf = NetworkConf::parse(&input, Reading::Lenient, true).unwrap();
    assert_eq!((conf.run.to_str(), conf.bpf.to_str()), (Some("/r"), Some("/b")));
    assert_eq!((conf.settings, conf.prev_result), (None, None));
}

#[test]
fn gc_tells_absent_from_empty() {
    let valid = |extra| parse(extra).unwrap().valid;
    assert_eq!(valid(json!({})), ValidAttachments::Unknown);
    assert_eq!(
        valid(json!({"cni.dev/valid-attachments": null})),
        ValidAttachments::These(vec![])
    );
    assert_eq!(
        valid(json!({"cni.dev/attachments": []})),
        ValidAttachments::These(vec![])
    );
    let list = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert_eq!(
        valid(json!({"cni.dev/valid-attachments": list})),
        ValidAttachments::These(vec![("a".into(), "eth0".into())])
    );
}

#[test]
fn a_requested_address_must_be_of_the_pool_and_the_configuration_goes_first() {
    let args = Arguments {
        ip: Some("10.244.0.9/24".into()),
        mac: Some("02:00:00:00:00:09".into()),
        ..Arguments::default()
    };
    let plain = parse(json!({})).unwrap().request(&args).unwrap();
    assert_eq!(plain.address, Some(Ipv4Addr::new(10, 244, 0, 9)));
    assert_eq!(plain.mac, Mac::parse("02:00:00:00:00:09"));
    let conf = parse(json!({"args": {"cni": {"ips": ["10.244.0.8"]}}})).unwrap();
    assert_eq!(
        conf.request(&args).unwrap().address,
        Some(Ipv4Addr::new(10, 244, 0, 8))
    );
    let conf =
        parse(json!({"args": {"cni": {"ips": ["10.244.0.8"]}}, "runtimeConfig": {"ips": ["10.244.0.7/24"]}}))
            .unwrap();
    assert_eq!(
        conf.request(&args).unwrap().address,
        Some(Ipv4Addr::new(10, 244, 0, 7))
    );
    for (ip, code) in [
        ("10.245.0.1", Code::InvalidNetwork),
        ("x", Code::InvalidNetwork),
        ("fd00::1", Code::UnsupportedField),
    ] {
        let conf = parse(json!({"runtimeConfig": {"ips": [ip]}})).unwrap();
        assert_eq!(
            conf.request(&Arguments::default()).unwrap_err().code,
            code,
            "{ip}"
        );
    }
}

#[test]
fn the_list_file_reads_back_as_the_settings_it_was_made_of() {
    let mut settings = Settings::new("10.1.0.0/24".parse().unwrap());
    settings.service_cidr = Some("10.96.0.0/16".parse().unwrap());
    settings.node_port_range = Some(PortRange(30000, 32767));
    settings.excluded_interfaces = vec!["docker0".into()];
    settings.mtu = 1400;
    settings.reserved = vec!["10.1.0.1".parse().unwrap()];
    let list: Value = serde_json::from_str(&settings.conflist("pods").unwrap()).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    let conf = NetworkConf::parse(plugin.to_string().as_bytes(), Reading::Whole, true).unwrap();
    assert_eq!(conf.settings().unwrap(), &settings);
    assert_eq!((conf.name.as_str(), conf.version), ("pods", SpecVersion::V1_0_0));
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_configuration(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = NetworkConf::parse(&input, Reading::Whole, true);
        let _ = NetworkConf::parse(&input, Reading::Lenient, false);
        let _ = version_of(&input);
    }

    #[test]
    fn any_value_under_any_key_is_an_error_or_a_configuration(
        key in prop::sample::select(vec!["name", "cniVersion", "podCIDR", "mtu", "run", "ipam", "dns", "runtimeConfig",
            "args", "prevResult", "cni.dev/valid-attachments", "snat", "excludedInterfaces", "nodePortRange"]),
        value in prop::sample::select(vec![json!(null), json!(1), json!(-1), json!("x"), json!([]), json!({}), json!([[]]),
            json!({"a": {"b": []}}), json!(true), json!(1e300), json!([{"cni": 1}])]),
    ) {
        let _ = parse(json!({key: value}));
        let lenient = NetworkConf::parse(&with(json!({key: value})), Reading::Lenient, true);
        if let Err(error) = lenient {
            prop_assert!(["name", "cniVersion", "cni.dev/valid-attachments"].contains(&key), "{key}: {error}");
        }
    }
}
