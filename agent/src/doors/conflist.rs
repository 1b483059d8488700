//! Door to the runtime's folder of network configurations: the node's configuration in the plugin's words.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use keelson_cni::conf::{PortRange, Settings};
use keelson_core::network::peers::Plan;
use keelson_dataplane::abi::SNAT_PORTS;

use crate::{config::Config, loops::network::NETWORK};

/// The conflist's file: first by name, so that the runtime takes it.
const CONFLIST: &str = "10-keelson.conflist";

/// Write it whole, with what follows from the `plan`, and only where it differs: every write makes the runtime load it again.
///
/// # Errors
/// The folder cannot be written.
pub fn write(config: &Config, plan: &Plan) -> anyhow::Result<()> {
    let (first, last) = config.node_port_range;
    let settings = Settings {
        service_cidr: Some(config.service_cidr),
        service_cidr_v6: config.service_cidr_v6(),
        pod_cidr_v6: config.pod_cidr_v6(),
        cluster_cidrs: config.cluster_pod_cidrs().to_vec(),
        node_port_range: Some(PortRange(first, last)),
        run: config.run.clone(),
        bpf: config.bpf.clone(),
        excluded_interfaces: config.excluded_interfaces.clone(),
        node_address: config.node_address,
        snat_ports: (config.snat_ports != SNAT_PORTS)
            .then_some(PortRange(config.snat_ports.0, config.snat_ports.1)),
        masquerade_all: config.masquerade_all,
        mtu: plan.pod_mtu.unwrap_or(0),
        reserved: plan
            .tunnel
            .as_ref()
            .map_or_else(Vec::new, |tunnel| tunnel.addresses.clone()),
        ..Settings::new(config.pod_cidr)
    };
    let text = settings.conflist(NETWORK)?;
    let path = config.cni_conf_dir.join(CONFLIST);
    replace(&path, &text).with_context(|| format!("writing the plugin's configuration {}", path.display()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Another ending: runtimes read every file that ends in .conf, .conflist or .json.
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_told_what_the_agent_is_configured_with() {
        let folder = std::env::temp_dir().join(format!("keelson-conflist-{}", std::process::id()));
        let config = Config {
            cni_conf_dir: folder.clone(),
            ..Config::default()
        };
        write(&config, &Plan::default()).expect("write");
        let path = folder.join(CONFLIST);
        let text = fs::read_to_string(&path).expect("read");
        assert!(
            text.contains(&config.pod_cidr.to_string()) && text.contains(&config.service_cidr.to_string()),
            "{text}"
        );
        let written = fs::metadata(&path).and_then(|m| m.modified()).expect("time");
        write(&config, &Plan::default()).expect("again");
        assert_eq!(
            fs::metadata(&path).and_then(|m| m.modified()).expect("time"),
            written,
            "an equal file is left alone"
        );
        fs::remove_dir_all(folder).expect("clean");
    }
}
