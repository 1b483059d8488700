//! User space of the programs: loaded once, opened by many, replaced under way, removed without a trace.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use keelson_abi::{Addr, Endpoint};
use keelson_dataplane::{Dataplane, Error, Generation, NodeSettings, Paths};
use keelson_tests::namespace::{self, Namespace};

/// A node's namespaces with an uplink, and nothing loaded.
fn node() -> Result<Namespace> {
    let script = "mount -t tmpfs tmpfs /run; ip link add up0 type veth peer name c0; ip link set up0 up; ip link set c0 up; \
                  ip addr add 192.168.50.1/24 dev up0; ip route add default via 192.168.50.9;";
    Namespace::new("dataplane", true, script)
}

fn paths() -> Paths {
    Paths {
        bpffs: PathBuf::from("/run/bpf"),
        run: PathBuf::from("/run/keelson"),
    }
}

fn settings() -> NodeSettings {
    NodeSettings {
        pod_cidrs: vec!["10.244.0.0/24".parse().expect("network")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("network")],
        ..NodeSettings::default()
    }
}

/// Do something inside the node's namespaces.
fn inside<T: Send + 'static>(
    node: &Namespace,
    action: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    namespace::inside(node.pid(), action)
}

fn pod(last: u8) -> Addr {
    IpAddr::from([10, 244, 0, last]).into()
}

fn generations() -> Result<Vec<String>> {
    let mut found: Vec<String> = fs::read_dir("/run/bpf/keelson")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    found.sort();
    Ok(found)
}

fn current() -> Result<Generation> {
    Generation::current(&paths())?.context("nothing is current")
}

#[test]
fn nothing_loaded_is_told_and_loading_twice_changes_nothing() -> Result<()> {
    let node = node()?;
    inside(&node, || {
        ensure!(matches!(Dataplane::open(&paths()), Err(Error::NoGeneration(_))));
        let first = Dataplane::ensure(&paths(), &settings())?;
        let before = (first.node()?, generations()?);
        let second = Dataplane::ensure(&paths(), &settings())?;
        ensure!(
            (second.node()?, generations()?) == before,
            "loading again changed something"
        );
        ensure!(second.is_settled(&settings())?, "everything is attached");
        ensure!(before.0.dry_run_mark != 0 && before.0.keelson1_ifindex != 0);
        Ok(())
    })
}

#[test]
fn eight_at_once_make_one_generation() -> Result<()> {
    let node = node()?;
    let pid = node.pid();
    let all: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                namespace::inside(pid, || Ok(Dataplane::ensure(&paths(), &settings()).map(drop)?))
            })
        })
        .collect();
    for one in all {
        one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    inside(&node, || {
        let found = generations()?;
        ensure!(
            found.len() == 2 && found.contains(&"current".to_owned()),
            "{found:?}"
        );
        Ok(())
    })
}

#[test]
fn another_attach_contract_is_refused_and_both_are_named() -> Result<()> {
    let node = node()?;
    inside(&node, || {
        Dataplane::ensure(&paths(), &settings())?;
        let live = current()?;
        let other = live.path.with_file_name("l1-c99-1");
        fs::rename(&live.path, &other)?;
        fs::remove_file(paths().current())?;
        std::os::unix::fs::symlink("l1-c99-1", paths().current())?;
        let refused = Dataplane::open(&paths())
            .err()
            .context("it was opened")?
            .to_string();
        ensure!(
            refused.contains("99") && refused.contains(&keelson_abi::ATTACH_CONTRACT.to_string()),
            "{refused}"
        );
        Ok(())
    })
}

#[test]
fn a_map_of_another_layout_is_refused_and_an_upgrade_takes_endpoints_over() -> Result<()> {
    let node = node()?;
    inside(&node, || {
        let dataplane = Dataplane::ensure(&paths(), &settings())?;
        let endpoint = Endpoint {
            ifindex: 7,
            epoch: 3,
            ..Endpoint::default()
        };
        dataplane.put_endpoint(pod(5), &endpoint)?;
        let live = current()?;
        // Frontends are not part of the attach contract: their pin becomes a map of another shape.
        fs::remove_file(live.map("frontend"))?;
        fs::rename(live.map("backend"), live.map("frontend"))?;
        let reopened = Dataplane::open(&paths())?;
        let refused = reopened
            .frontends()
            .err()
            .context("a map of another layout was read")?;
        ensure!(matches!(refused, Error::Layout { .. }), "{refused}");
        let upgraded = Dataplane::upgrade(&paths(), &settings())?;
        ensure!(
            upgraded.generation().number == live.number + 1,
            "a new generation"
        );
        ensure!(
            upgraded.endpoint(pod(5))? == Some(endpoint),
            "the endpoint was taken over"
        );
        ensure!(upgraded.frontends()?.is_empty() && upgraded.is_settled(&settings())?);
        ensure!(!live.path.exists(), "the old generation is gone");
        Ok(())
    })
}

#[test]
fn another_build_replaces_the_programs_and_keeps_the_maps() -> Result<()> {
    let node = node()?;
    inside(&node, || {
        let dataplane = Dataplane::ensure(&paths(), &settings())?;
        let endpoint = Endpoint {
            ifindex: 7,
            epoch: 3,
            ..Endpoint::default()
        };
        dataplane.put_endpoint(pod(5), &endpoint)?;
        let live = current()?;
        let build = live.build().context("it has a build")?;
        // The programs that run are said to be of another build.
        fs::rename(live.build_folder(&build), live.build_folder("other"))?;
        let programs = live.path.join("programs");
        fs::remove_file(&programs)?;
        std::os::unix::fs::symlink("p-other", &programs)?;
        let mark = dataplane.node()?.dry_run_mark;
        let upgraded = Dataplane::upgrade(&paths(), &settings())?;
        ensure!(upgraded.generation() == &live, "the same generation");
        ensure!(
            live.build() == Some(build) && !live.build_folder("other").exists(),
            "the new programs are in place"
        );
        ensure!(
            upgraded.is_settled(&settings())?,
            "every link runs the new programs"
        );
        ensure!(upgraded.endpoint(pod(5))? == Some(endpoint) && upgraded.node()?.dry_run_mark == mark);
        Ok(())
    })
}

#[test]
fn an_uplink_that_comes_is_attached_and_one_that_goes_leaves_no_pin() -> Result<()> {
    let node = node()?;
    let links = || -> Result<usize> { Ok(fs::read_dir(current()?.links())?.count()) };
    inside(&node, move || {
        let dataplane = Dataplane::ensure(&paths(), &settings())?;
        ensure!(
            links()? == 4,
            "lo, keelson1, and both directions of up0: {}",
            links()?
        );
        drop(dataplane);
        Ok(())
    })?;
    node.sh("ip link add up1 type veth peer name c1; ip addr add 192.168.60.1/24 dev up1; ip link set up1 up; ip link set c1 up")?;
    inside(&node, move || {
        let dataplane = Dataplane::open(&paths())?;
        ensure!(!dataplane.is_settled(&settings())?, "the new uplink is noticed");
        let uplinks = dataplane.configure(&settings())?;
        ensure!(uplinks.iter().any(|uplink| uplink.name == "up1") && links()? == 6);
        Ok(())
    })?;
    node.sh("ip link del up1")?;
    inside(&node, move || {
        Dataplane::open(&paths())?.configure(&settings())?;
        ensure!(links()? == 4, "{} links are pinned", links()?);
        Ok(())
    })
}

#[test]
fn a_node_without_an_address_is_loaded_and_follows_when_it_gets_one() -> Result<()> {
    let node = Namespace::new("bare", true, "mount -t tmpfs tmpfs /run;")?;
    inside(&node, || {
        Dataplane::ensure(&paths(), &settings())
            .map(drop)
            .map_err(Into::into)
    })?;
    node.sh("ip link add up0 type veth peer name c0; ip addr add 192.168.50.1/24 dev up0; ip link set up0 up; ip link set c0 up")?;
    inside(&node, || {
        let dataplane = Dataplane::open(&paths())?;
        dataplane.configure(&settings())?;
        ensure!(IpAddr::from(dataplane.node()?.ipv4) == IpAddr::from([192, 168, 50, 1]));
        Ok(())
    })?;
    let routes = node.run("ip", &["route"])?;
    ensure!(
        routes.contains("10.96.0.0/16 via 169.254.1.1 dev keelson0"),
        "{routes}"
    );
    Ok(())
}

#[test]
fn removing_leaves_no_pin_and_no_device() -> Result<()> {
    let node = node()?;
    inside(&node, || {
        Dataplane::ensure(&paths(), &settings())?;
        Dataplane::remove_all(&paths())?;
        ensure!(!Path::new("/run/bpf/keelson").exists(), "pins stayed");
        // Again is fine.
        Dataplane::remove_all(&paths()).map_err(Into::into)
    })?;
    let devices = node.run("ip", &["-o", "link"])?;
    ensure!(!devices.contains("keelson0"), "{devices}");
    Ok(())
}
