//! Kernel programs first, since user space embeds them; then everything else in a single cargo call: two calls with
//! different selections resolve different features, and would compile the dependencies twice.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{bpf, image, run};

/// What every cargo call over the workspace selects: the kernel programs have a target of their own.
pub const SELECTION: [&str; 3] = ["--workspace", "--exclude", "keelson-ebpf"];

/// A test executable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Executable {
    /// Its package.
    pub package: String,
    /// Name of the target: a file below `tests/`, or the crate.
    pub name: String,
    /// Whether it is a file below `tests/`, not a crate's own unit tests.
    pub integration: bool,
    /// The program.
    pub program: PathBuf,
    /// The package's folder, where tests are started.
    pub folder: PathBuf,
}

/// `build`: kernel programs where they can be built, then binaries and tests, in the one profile that tests use.
pub fn run() -> Result<()> {
    match bpf::missing()? {
        None => bpf::build()?,
        Some(what) => run::step(format!(
            "kernel programs are SKIPPED: {what}. `cargo xtask setup` installs it; until then the binaries carry no \
             kernel programs, and say so when they need them"
        )),
    }
    everything().map(|_| ())
}

/// `build`, and fail where the kernel programs cannot be built.
pub fn all() -> Result<Vec<Executable>> {
    let missing = bpf::missing()?;
    ensure!(
        missing.is_none(),
        "{}: `cargo xtask setup` installs it",
        missing.unwrap_or_default()
    );
    bpf::build()?;
    everything()
}

/// Binaries and tests of the workspace; returns the tests.
fn everything() -> Result<Vec<Executable>> {
    run::step("binaries and tests");
    let mut command = run::cargo();
    command
        .arg("build")
        .args(SELECTION)
        .args(["--all-targets", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output is piped")?;
    let mut executables = Vec::new();
    for line in BufReader::new(output).lines() {
        let message: Value = serde_json::from_str(&line?).context("reading cargo's messages")?;
        executables.extend(executable(&message));
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    executables.sort();
    Ok(executables)
}

/// The test executable a message of cargo tells of.
fn executable(message: &Value) -> Option<Executable> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(Executable {
        package: package(message["package_id"].as_str()?)?,
        name: message["target"]["name"].as_str()?.to_owned(),
        integration: message["target"]["kind"]
            .as_array()?
            .iter()
            .any(|kind| kind == "test"),
        program: message["executable"].as_str()?.into(),
        folder: manifest.parent()?.to_owned(),
    })
}

/// The name in a package's identifier: `path+file:///clone/xtask#0.1.0`, or `…/agent#keelson@0.1.0` where folder and name differ.
fn package(id: &str) -> Option<String> {
    let (path, fragment) = id.rsplit_once('#')?;
    Some(match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next()?.to_owned(),
    })
}

/// A program of the test crate, everything it needs built before.
pub fn demo(command: &str, arguments: &[String]) -> Result<()> {
    run::need_root("a test node has namespaces and kernel programs of its own")?;
    if command == "up" {
        crate::setup::run(&[])?;
        all()?;
        image::ensure_all()?;
    }
    let demo = run::target().join("debug/keelson-demo");
    ensure!(
        demo.exists(),
        "{} is not built: `cargo xtask build`",
        demo.display()
    );
    run::run(
        std::process::Command::new(demo)
            .arg(command)
            .args(arguments)
            .current_dir(run::workspace()),
    )
}

/// `keelson -- …`: the command line, connected to the node of `up`.
pub fn keelson(arguments: &[String]) -> Result<()> {
    let words = arguments
        .iter()
        .skip_while(|word| *word == "--")
        .cloned()
        .collect::<Vec<_>>();
    demo("keelson", &words)
}

/// `bench`: release binaries against their peers.
pub fn bench(arguments: &[String]) -> Result<()> {
    crate::setup::install_packages(&crate::setup::missing(crate::setup::PEERS))?;
    all()?;
    image::ensure_all()?;
    run::run(run::cargo().args([
        "build",
        "--release",
        "--package",
        "keelson",
        "--package",
        "keelson-cni",
        "--package",
        "keelson-bench",
    ]))?;
    let mut bench = run::cargo();
    bench.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "keelson-tests",
        "--bin",
        "keelson-benchmarks",
        "--",
    ]);
    run::run(bench.args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_by_its_identifier_whether_or_not_its_folder_has_its_name() {
        assert_eq!(package("path+file:///a/xtask#0.1.0").as_deref(), Some("xtask"));
        assert_eq!(
            package("path+file:///a/agent#keelson@0.1.0").as_deref(),
            Some("keelson")
        );
    }

    #[test]
    fn only_test_executables_count() {
        let mut message = serde_json::json!({
            "reason": "compiler-artifact", "package_id": "path+file:///a/tests#keelson-tests@0.1.0",
            "manifest_path": "/a/tests/Cargo.toml", "target": {"name": "cni", "kind": ["test"]},
            "profile": {"test": true}, "executable": "/a/target/debug/deps/cni-1"
        });
        let found = executable(&message).expect("a test executable");
        assert_eq!(
            (found.package.as_str(), found.integration),
            ("keelson-tests", true)
        );
        assert_eq!(found.folder, PathBuf::from("/a/tests"));
        message["profile"]["test"] = false.into();
        assert_eq!(executable(&message), None);
    }
}
