//! A node in its own network and mount namespace, held by one process, and the plugin called in it as a runtime would.

use std::{
    fs::File,
    io::Write,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use keelson_dataplane::{Dataplane, Paths};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// A node. Everything of it ends with this value.
pub struct Lab {
    anchor: Child,
    net: File,
    mnt: File,
}

/// What a call answered.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    /// Standard output as JSON; null when there is none.
    pub json: Value,
    pub stderr: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let json = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("standard output is not JSON: {e}: {text}"))
        };
        Self {
            ok: output.status.success(),
            json,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The result of a call that must succeed.
    #[track_caller]
    pub fn expect(self, what: &str) -> Value {
        assert!(self.ok, "{what}: {} {}", self.json, self.stderr);
        self.json
    }

    /// The error of a call that must fail with this code.
    #[track_caller]
    pub fn expect_code(self, code: u64, what: &str) -> String {
        assert!(!self.ok, "{what} succeeded: {}", self.json);
        assert_eq!(self.json["code"], code, "{what}: {}", self.json);
        assert!(self.json["cniVersion"].is_string(), "{what}: {}", self.json);
        format!(
            "{} {}",
            self.json["msg"].as_str().unwrap(),
            self.json["details"].as_str().unwrap_or_default()
        )
    }
}

/// The plugin under test, beside this test's own target folder.
pub fn plugin() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .and_then(|deps| deps.parent())
        .unwrap()
        .join("keelson-cni");
    assert!(
        path.exists(),
        "{} is not built: cargo build -p keelson-cni",
        path.display()
    );
    path
}

/// The usual configuration, with changes.
pub fn conf(changes: Value) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "keelson", "type": "keelson-cni",
        "podCIDR": "10.244.0.0/24", "serviceCIDR": "10.96.0.0/16",
    });
    for (key, value) in changes.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

/// One attachment's variables.
pub struct Pod<'a> {
    pub id: &'a str,
    pub netns: String,
    pub ifname: &'a str,
}

/// A pod named `id`, with its namespace at the usual place.
pub fn pod(id: &str) -> Pod<'_> {
    Pod {
        id,
        netns: format!("/run/netns/{id}"),
        ifname: "eth0",
    }
}

impl Lab {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sleep",
            "infinity",
        ]);
        let anchor = dies_with_us(&mut command)
            .spawn()
            .expect("unshare from util-linux");
        let proc = PathBuf::from(format!("/proc/{}/ns", anchor.id()));
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        // Both namespaces are there once `unshare` has become `sleep`.
        until("the namespaces", || {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", anchor.id())).unwrap_or_default();
            comm.trim() == "sleep" && std::fs::read_link(proc.join("mnt")).is_ok_and(|link| link != own)
        });
        let net = File::open(proc.join("net")).unwrap();
        let mnt = File::open(proc.join("mnt")).unwrap();
        let lab = Self { anchor, net, mnt };
        lab.sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up");
        // An uplink with the default route; the other end is the world outside.
        lab.sh("ip link add up0 type veth peer name world && ip link set up0 up && ip link set world up");
        lab.sh("ip link set up0 mtu 1440 && ip addr add 192.168.77.1/24 dev up0 && ip route add default via 192.168.77.2");
        lab
    }

    /// A path as the node sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.anchor.id()))
    }

    /// A command that will run in the node's namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let (net, mnt): (RawFd, RawFd) = (self.net.as_raw_fd(), self.mnt.as_raw_fd());
        let mut command = Command::new(program);
        dies_with_us(&mut command);
        let enter = move || {
            for fd in [net, mnt] {
                // SAFETY: setns takes a descriptor that the parent keeps open across the fork, and no memory.
                if unsafe { libc::setns(fd, 0) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: only system calls that are safe between fork and exec, no allocation.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a shell line on the node, which must succeed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("sh").args(["-c", line]).output().unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a shell line in a pod.
    #[track_caller]
    pub fn pod_sh(&self, id: &str, line: &str) -> String {
        self.sh(&format!("nsenter --net=/run/netns/{id} sh -c '{line}'"))
    }

    /// Makes a pod's namespace.
    pub fn netns(&self, id: &str) {
        self.sh(&format!(
            "touch /run/netns/{id} && unshare --net mount --bind /proc/self/ns/net /run/netns/{id}"
        ));
    }

    /// Runs `work` on a thread inside a pod's network namespace.
    pub fn inside<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = File::open(self.path(&format!("/run/netns/{id}"))).unwrap();
        thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs `work` on a thread in the node's network namespace.
    pub fn on_node<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let net = self.net.try_clone().unwrap();
        let thread = thread::spawn(move || {
            setns(&net, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    /// The plugin, about to be called.
    pub fn prepare(&self, verb: &str, pod: Option<&Pod<'_>>) -> Command {
        let mut command = self.command(plugin());
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", "/opt/cni/bin");
        if let Some(pod) = pod {
            command
                .env("CNI_CONTAINERID", pod.id)
                .env("CNI_NETNS", &pod.netns)
                .env("CNI_IFNAME", pod.ifname);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Calls the plugin.
    pub fn call(&self, verb: &str, pod: Option<&Pod<'_>>, conf: &Value) -> Answer {
        self.feed(self.prepare(verb, pod), conf.to_string().as_bytes())
    }

    /// Runs a prepared call with this input.
    pub fn feed(&self, mut command: Command, input: &[u8]) -> Answer {
        let mut child = command.spawn().unwrap();
        // A plugin that does not read its input closes the pipe; that is its right.
        let _ = child.stdin.take().unwrap().write_all(input);
        Answer::of(&child.wait_with_output().unwrap())
    }

    /// ADD that must succeed; makes the namespace if need be.
    #[track_caller]
    pub fn add(&self, id: &str) -> Value {
        if !self.path(&format!("/run/netns/{id}")).exists() {
            self.netns(id);
        }
        self.call("ADD", Some(&pod(id)), &conf(json!({}))).expect("ADD")
    }

    /// CHECK against a result.
    pub fn check(&self, id: &str, result: &Value) -> Answer {
        self.call("CHECK", Some(&pod(id)), &conf(json!({"prevResult": result})))
    }

    /// DEL that must succeed.
    #[track_caller]
    pub fn del(&self, id: &str) {
        let answer = self.call("DEL", Some(&pod(id)), &conf(json!({})));
        assert_eq!(answer.expect("DEL"), Value::Null, "DEL says nothing");
    }

    /// Names of pod links on the node.
    pub fn links(&self) -> Vec<String> {
        let text = self.sh("ip -o link show type veth");
        let names = text
            .lines()
            .filter_map(|line| line.split([' ', '@']).nth(1).map(str::to_owned));
        names.filter(|name| name.starts_with("kl")).collect()
    }

    /// Files of attachments.
    pub fn records(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path("/run/keelson/cni/keelson/attachments"))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default()
    }

    /// The loaded programs' maps.
    pub fn dataplane(&self) -> Dataplane {
        let paths = Paths {
            bpffs: self.path("/sys/fs/bpf"),
            run: self.path("/run/keelson"),
        };
        Dataplane::open(&paths).unwrap()
    }

    /// Addresses that have an endpoint entry.
    pub fn endpoints(&self) -> Vec<std::net::IpAddr> {
        self.dataplane()
            .endpoints()
            .unwrap()
            .into_iter()
            .map(|(address, _)| address.into())
            .collect()
    }

    /// Nothing of any pod is left: no link, no route, no neighbour, no entry, no record, no address in use.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.links(), Vec::<String>::new());
        assert_eq!(self.sh("ip route show proto 107 | grep -v keelson0 || true"), "");
        assert_eq!(self.endpoints(), Vec::<std::net::IpAddr>::new());
        assert_eq!(self.records(), Vec::<PathBuf>::new());
        // Whoever opens a pool that a crash left half-way repairs it.
        self.call("STATUS", None, &conf(json!({}))).expect("STATUS");
        assert_eq!(self.in_use(), 0);
    }

    /// How many addresses are in use, by the plugin's own account.
    pub fn in_use(&self) -> u32 {
        use keelson_cni::{ipam::HEADER_LEN, ipam::Header};
        let bytes = std::fs::read(self.path("/run/keelson/cni/keelson/pool")).unwrap_or_default();
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return 0;
        };
        let header = Header::decode(header).unwrap();
        assert!(!header.dirty, "a change of the pool was left half-way");
        header.used
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
    }
}

/// A child that does not outlive the test, even if the test is killed.
fn dies_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl with a constant is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    }
}

/// Waits for a condition, not for a time.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The pod's address in a result of 0.3.0 or later.
pub fn address(result: &Value) -> Ipv4Addr {
    result["ips"][0]["address"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Numbers that differ between tests of one process.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
