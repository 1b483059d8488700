//! What a configuration file means.

use super::*;

const HEAD: &str = "apiVersion: keelson.dev/v1\nkind: KeelsonConfiguration\n";

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, "node.yaml", &Flags::default())
}

fn problems(text: &str) -> String {
    parse(text).expect_err("refused").to_string()
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").expect("fine"), Config::default());
    assert_eq!(parse(HEAD).expect("fine"), Config::default());
    assert!(Config::default().problems().is_empty());
}

#[test]
fn every_field_can_be_set() {
    let fields = "nodeName: n1\nroot: /a\nrun: /b\nmanifests: /c\nimages: /d\nstate: /e\npodLogs: /f\nbpf: /g\ncgroup: /h\n\
        cgroupParent: /p\ncontainerd: /i\ncniConfDir: /j\ncniBinDir: /k\npodCIDR: 10.1.0.0/24\nserviceCIDR: 10.2.0.0/16\n\
        nodePortRange: 31000-31999\nnodeAddress: 192.0.2.1\nexcludedInterfaces: [eth9]\nclusterDomain: example.test\n\
        healthAddress: 127.0.0.1:9\npodNetwork: other\npodCIDRs: [10.1.0.0/24, 'fd00:1::/64']\n\
        serviceCIDRs: ['fd00:2::/112', 10.2.0.0/16]\nnodePortAddresses: [192.0.2.0/24]\nlocalhostNodePorts: false\n\
        externalIPs: false\nmasqueradeAll: true\nlocalDetector: {clusterCIDR: [10.1.0.0/16]}\nsnatPorts: 40000-40999\n\
        loadBalancing: maglev\nresetGoneConnections: true\nsocketHooks: true\nsyncPeriod: 1m\npodInterfaces: [veth0]\n\
        healthzAddress: ''\nmetricsAddress: 127.0.0.1:8\noomScoreAdj: -500\n\
        podRouting: vxlan\nvxlan: {port: 8472, id: 7}\n";
    let config = parse(&format!("{HEAD}{fields}")).expect("fine");
    assert_eq!(config.node_port_range, (31000, 31999));
    assert_eq!(config.socket(), PathBuf::from("/b/keelson.sock"));
    // Every field differs from its default, so none was forgotten in the text above or ignored by the parser.
    let (set, default) = (
        serde_json::to_value(&config),
        serde_json::to_value(Config::default()),
    );
    for (name, value) in default.expect("serialises").as_object().expect("map") {
        assert_ne!(&set.as_ref().expect("serialises")[name], value, "{name}");
    }
}

#[test]
fn unsupported_fields_are_refused_by_name_and_line_all_at_once() {
    let text = format!(
        "{HEAD}nodeNam: x\npodCIDR: 10.0.0.0\n---\napiVersion: kubelet.config.k8s.io/v1beta1\n\
        kind: KubeletConfiguration\nmaxPods: 20\nclusterDomain: a.test\n"
    );
    let message = problems(&text);
    for expected in [
        "document 1, line 3: nodeNam:",
        "document 1, line 4: podCIDR:",
        "document 2, line 8: maxPods: field of KubeletConfiguration",
    ] {
        assert!(message.contains(expected), "{expected:?} in {message}");
    }
}

#[test]
fn a_kubelet_configuration_keeps_its_meaning() {
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
        clusterDomain: a.test\nstaticPodPath: /etc/kubernetes/manifests\npodLogsDir: /logs\n";
    let config = parse(text).expect("fine");
    assert_eq!(config.cluster_domain, "a.test");
    assert_eq!(config.manifests, PathBuf::from("/etc/kubernetes/manifests"));
    assert_eq!(config.pod_logs, PathBuf::from("/logs"));
    let both = format!("{HEAD}clusterDomain: b.test\n---\n{text}");
    assert!(
        problems(&both).contains("clusterDomain: contradicts clusterDomain"),
        "{}",
        problems(&both)
    );
}

#[test]
fn documents_of_other_kinds_are_refused_by_name() {
    let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    assert!(
        problems(text).contains("\"KubeSchedulerConfiguration\""),
        "{}",
        problems(text)
    );
    assert!(problems(&format!("{HEAD}---\n{HEAD}")).contains("a second KeelsonConfiguration"));
    assert!(problems("a: [").contains("document 1, line 1"));
}

#[test]
fn networks_that_overlap_or_are_none_are_refused() {
    for (fields, expected) in [
        ("podCIDR: 10.96.7.0/24", "overlap"),
        ("podCIDR: 10.0.0.0/8", "overlap"),
        ("podCIDR: 10.244.0.5/24", "10.244.0.0/24 is"),
        ("podCIDR: 10.244.0.0/31", "prefix length"),
        ("nodeAddress: 10.96.0.1", "lies within serviceCIDR"),
        ("nodePortRange: 32000-31000", "range of ports"),
        ("nodePortRange: 0-5", "range of ports"),
        ("nodeName: Node_1", "not a DNS name"),
        ("run: relative", "run: relative is not an absolute path"),
        ("cgroupParent: x", "must start with '/'"),
        ("podCIDRs: ['fd00::/64']", "one IPv4 network"),
        ("podCIDRs: [10.1.0.0/24, 10.2.0.0/24]", "one IPv4 network"),
        (
            "podCIDR: 10.1.0.0/24\npodCIDRs: [10.2.0.0/24]",
            "contradicts podCIDRs",
        ),
        (
            "podCIDRs: [10.1.0.0/24, 'fd00::/64']\nserviceCIDRs: [10.2.0.0/16, 'fd00::/112']",
            "overlap",
        ),
        ("localDetector: {clusterCIDR: [10.0.0.0/8]}", "overlap"),
        ("localDetector: {interfacePrefix: veth}", "podNetwork: other"),
        (
            "localDetector: {interfacePrefix: ''}\npodNetwork: other",
            "empty prefix",
        ),
        ("localDetector: guess", "localDetector: unknown variant"),
        ("snatPorts: 29000-31000", "nodePortRange 30000-32767 overlap"),
        ("nodePortAddresses: [first]", "neither a network"),
        ("metricsAddress: 127.0.0.1:10256", "are the same port"),
        ("healthzAddress: nowhere", "no address and port"),
        ("oomScoreAdj: -2000", "not from -1000 to 1000"),
        ("syncPeriod: 0s", "longer than nothing"),
        ("loadBalancing: fair", "unknown variant"),
    ] {
        let message = problems(&format!("{HEAD}{fields}\n"));
        assert!(message.contains(expected), "{fields}: {message}");
    }
}

#[test]
fn the_single_fields_are_the_first_families_of_the_lists() {
    let config = parse(&format!(
        "{HEAD}podCIDRs: ['fd00:1::/64', 10.1.0.0/24]\nserviceCIDRs: [10.2.0.0/16]\n"
    ))
    .expect("fine");
    assert_eq!(config.pod_cidr.to_string(), "10.1.0.0/24");
    assert_eq!(config.pod_cidr_v6().expect("IPv6").to_string(), "fd00:1::/64");
    assert_eq!(config.service_cidr.to_string(), "10.2.0.0/16");
    assert_eq!(config.service_cidr_v6(), None);
    assert_eq!(config.all_pod_cidrs().len(), 2);
    let single = parse(&format!("{HEAD}podCIDR: 10.1.0.0/24\n")).expect("fine");
    assert_eq!(
        single.all_pod_cidrs(),
        [IpNet::V4("10.1.0.0/24".parse().expect("network"))]
    );
}

#[test]
fn beside_another_plugin_a_pod_network_counts_only_if_it_was_said() {
    let guess = parse(&format!("{HEAD}podNetwork: other\n")).expect("fine");
    assert_eq!(guess.all_pod_cidrs(), []);
    let said = parse(&format!("{HEAD}podNetwork: other\npodCIDR: 10.5.0.0/24\n")).expect("fine");
    assert_eq!(said.all_pod_cidrs().len(), 1);
}

mod kube_proxy {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn read(fields: &str) -> Config {
        parse(&format!("{HEAD}{fields}")).expect("understood")
    }

    /// What kubeadm writes, but for the kubeconfig.
    const WRITTEN: &str = "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: ''\n  \
        burst: 0\n  contentType: ''\n  kubeconfig: ''\n  qps: 0\nclusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\n\
        conntrack:\n  maxPerCore: null\n  min: null\n  tcpBeLiberal: false\n  tcpCloseWaitTimeout: null\n\
        detectLocal:\n  bridgeInterface: ''\n  interfaceNamePrefix: ''\ndetectLocalMode: ''\nenableProfiling: false\n\
        healthzBindAddress: ''\nhostnameOverride: ''\niptables:\n  localhostNodePorts: null\n  masqueradeAll: false\n  \
        masqueradeBit: null\n  minSyncPeriod: 0s\n  syncPeriod: 0s\nipvs:\n  excludeCIDRs: null\n  scheduler: ''\n  \
        strictARP: false\n  syncPeriod: 0s\nlogging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: '0'\n  \
        verbosity: 0\nmetricsBindAddress: ''\nmode: ''\nnftables:\n  masqueradeAll: false\nnodePortAddresses: null\n\
        oomScoreAdj: null\nportRange: ''\nshowHiddenMetricsForVersion: ''\nwinkernel:\n  enableDSR: false\n  networkName: ''\n";

    #[test]
    fn empty_fields_say_nothing() {
        let config = read(WRITTEN);
        let expected = Config {
            local_detector: LocalDetector::ClusterCidr(vec!["10.244.0.0/16".parse().expect("network")]),
            ..Config::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn fields_keep_their_meaning() {
        let config = read(
            "mode: nftables\nhostnameOverride: Node-1\nbindAddress: 192.0.2.7\nhealthzBindAddress: 192.0.2.7\n\
             metricsBindAddress: '[::1]:9'\nnftables: {masqueradeAll: true, syncPeriod: 45s}\noomScoreAdj: -999\n\
             detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n---\n\
             apiVersion: keelson.dev/v1\nkind: KeelsonConfiguration\npodNetwork: other\n",
        );
        assert_eq!(config.node_name, "node-1");
        assert_eq!(config.node_address, Some([192, 0, 2, 7].into()));
        assert_eq!(config.healthz_address, Some(([192, 0, 2, 7], 10256).into()));
        assert_eq!(config.metrics_address.expect("address").to_string(), "[::1]:9");
        assert!(config.masquerade_all);
        assert_eq!(config.sync_period, Duration::from_secs(45));
        assert_eq!(config.oom_score_adj, Some(-999));
        assert_eq!(
            config.local_detector,
            LocalDetector::InterfacePrefix("veth".to_owned())
        );
        assert_eq!(
            config.node_port_addresses,
            [NodePortAddresses::Primary],
            "as that mode does"
        );
        let both = read("clusterCIDR: 10.244.0.0/16,fd00:1::/48\niptables: {localhostNodePorts: false}\n");
        assert_eq!(both.cluster_pod_cidrs().len(), 2);
        assert!(!both.localhost_node_ports);
        assert!(both.node_port_addresses.is_empty());
        let chosen = read("mode: nftables\nnodePortAddresses: [0.0.0.0/0]\n");
        assert_eq!(chosen.node_port_addresses.len(), 1);
    }

    #[test]
    fn what_has_no_meaning_here_is_noted_by_name() {
        let config = read(
            "mode: ipvs\nconntrack: {maxPerCore: 1000}\niptables: {masqueradeAll: true}\nconfigSyncPeriod: 15m\n",
        );
        for expected in [
            "mode: ipvs",
            "conntrack.maxPerCore:",
            "iptables.masqueradeAll: the mode is ipvs",
            "configSyncPeriod:",
        ] {
            assert!(
                config.notes.iter().any(|note| note.contains(expected)),
                "{expected:?} in {:?}",
                config.notes
            );
        }
        assert!(!config.masquerade_all);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        for (fields, expected) in [
            (
                "bindAddressHardFail: true",
                "bindAddressHardFail: field of KubeProxyConfiguration",
            ),
            (
                "clientConnection: {kubeconfig: /k}",
                "line 3: clientConnection.kubeconfig: this version follows no API server",
            ),
            ("featureGates: {A: true}", "featureGates: field of"),
            ("logging: {verbosity: 4}", "logging: field of"),
            ("mode: kernelspace", "no mode of Linux"),
            ("mode: ipvs\nipvs: {scheduler: wlc}", "ipvs.scheduler: field of"),
            ("detectLocalMode: ClusterCIDR", "needs clusterCIDR"),
            ("bindAddress: here", "no address"),
            ("clusterCIDR: 10.0.0.0/33", "clusterCIDR: "),
            ("newField: 1", "newField: field of"),
        ] {
            let message = problems(&format!("{HEAD}{fields}\n"));
            assert!(message.contains(expected), "{fields}: {message}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let flags = Flags {
            kube_proxy: Map::from_iter([("hostnameOverride".to_owned(), json!("other"))]),
            ours: Map::from_iter([("healthzAddress".to_owned(), json!(""))]),
            defaults: Map::from_iter([
                ("podNetwork".to_owned(), json!("other")),
                ("syncPeriod".to_owned(), json!("1s")),
            ]),
            part: Part::Proxy,
        };
        let text = format!(
            "{HEAD}hostnameOverride: one\nhealthzBindAddress: 127.0.0.1:1\niptables: {{syncPeriod: 9s}}\n"
        );
        let config = Config::parse(&text, "node.yaml", &flags).expect("understood");
        assert_eq!(
            (config.node_name.as_str(), config.healthz_address),
            ("other", None)
        );
        assert_eq!(config.pod_network, PodNetwork::Other);
        assert_eq!(config.sync_period, Duration::from_secs(9), "a default is no word");
    }
}

#[test]
fn what_this_version_does_not_do_is_said_when_it_is_asked_for() {
    let text = format!("{HEAD}socketHooks: true\npodInterfaces: [veth0]\n");
    let config = parse(&text).expect("a configuration");
    for field in ["socketHooks", "podInterfaces"] {
        assert!(
            config.notes.iter().any(|note| note.starts_with(field)),
            "{:?}",
            config.notes
        );
    }
    assert!(
        Config::parse("", "keelson.yaml", &Flags::default())
            .expect("nothing")
            .notes
            .is_empty()
    );
}

#[test]
fn a_word_among_networks_is_refused_by_name() {
    let problem = problems(&format!("{HEAD}nodePortAddresses: [primary, 10.0.0.0/8]\n"));
    assert!(problem.contains("nodePortAddresses: primary"), "{problem}");
}
