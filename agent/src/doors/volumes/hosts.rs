//! The hosts file of a pod. Pure.

use std::{fmt::Write, net::IpAddr};

/// First line: tells that the file is managed, and survives no restart of the container.
const HEADER: &str = "# Kubernetes-managed hosts file";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::0\tip6-localnet\n\
                     fe00::0\tip6-mcastprefix\n\
                     fe00::1\tip6-allnodes\n\
                     fe00::2\tip6-allrouters\n";

/// An entry of `hostAliases`.
pub type Alias<'a> = (&'a str, &'a [String]);

/// For a pod with a network of its own.
pub fn of_pod(addresses: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[Alias<'_>]) -> String {
    let mut text = format!("{HEADER}.\n{LOCAL}");
    for address in addresses {
        // Writing to a String cannot fail.
        let _ = match domain {
            Some(domain) => writeln!(text, "{address}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    add(&mut text, aliases);
    text
}

/// For a pod in the node's network: the node's own file.
pub fn of_node(own: &str, aliases: &[Alias<'_>]) -> String {
    let mut text = format!("{HEADER} (host network).\n{own}");
    add(&mut text, aliases);
    text
}

fn add(text: &mut String, aliases: &[Alias<'_>]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for (address, names) in aliases {
        let _ = writeln!(text, "{address}\t{}", names.join("\t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_finds_itself_and_its_aliases() {
        let address = "10.0.0.7".parse().expect("address");
        let names = ["db".to_owned(), "db.local".to_owned()];
        let text = of_pod(
            &[address],
            "web",
            Some("sub.ns.svc.cluster.local"),
            &[("10.0.0.9", &names)],
        );
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        assert!(
            text.contains("\n10.0.0.7\tweb.sub.ns.svc.cluster.local\tweb\n"),
            "{text}"
        );
        assert!(
            text.ends_with("# Entries added by HostAliases.\n10.0.0.9\tdb\tdb.local\n"),
            "{text}"
        );
        assert!(of_pod(&[address], "web", None, &[]).ends_with("\n10.0.0.7\tweb\n"));
    }

    #[test]
    fn a_host_network_pod_has_the_nodes_own() {
        let text = of_node("127.0.0.1 localhost\n", &[]);
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
        );
    }
}
