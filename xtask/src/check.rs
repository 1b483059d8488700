//! What must hold before a push: format, clippy, licences, docs.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{bpf, build::SELECTION, run, setup};

/// `check`. All of it is looked at; what failed is named at the end.
pub fn run() -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("check: {name}");
        if let Err(error) = check() {
            eprintln!("check: {name}: {error:#}");
            failed.push(*name);
        }
    }
    long_files()?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    println!("check: all is well");
    Ok(())
}

type Check = fn() -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("format", || {
        run::run(run::cargo().args(["fmt", "--all", "--check"]))
    }),
    ("clippy", || {
        let mut clippy = run::cargo();
        clippy.arg("clippy").args(SELECTION);
        run::run(clippy.args(["--all-targets", "--keep-going", "--", "-D", "warnings"]))
    }),
    ("kernel programs build without a warning", kernel_programs),
    ("licences and bans", || {
        let mut licences = Command::new(setup::cargo_deny()?);
        licences.current_dir(run::workspace());
        // Advisories change by the day and come from the network: they are no property of a commit.
        run::run(licences.args(["--log-level", "error", "check", "bans", "licenses", "sources"]))
    }),
    ("documentation", || {
        let mut docs = run::cargo();
        docs.arg("doc").args(SELECTION);
        docs.args(["--no-deps", "--document-private-items", "--keep-going"]);
        run::run(docs.env("RUSTDOCFLAGS", "-D warnings"))
    }),
];

/// Clippy's own driver is of another compiler than the one that builds for the kernel: that one's warnings count.
fn kernel_programs() -> Result<()> {
    if let Some(what) = bpf::missing()? {
        bail!("{what}: `cargo xtask setup` installs it");
    }
    for object in bpf::OBJECTS {
        let mut build = bpf::command()?;
        build.args(["rustc", "--package", "keelson-ebpf", "--bin", object, "--release"]);
        build.args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
        run::run(build.args(["--target-dir", "target/bpf-build", "--", "-Dwarnings"]))?;
    }
    Ok(())
}

/// Files of more than 400 lines before their tests: told, not refused.
fn long_files() -> Result<()> {
    let files = run::output(
        Command::new("git")
            .current_dir(run::workspace())
            .args(["ls-files", "*.rs"]),
    )?;
    for file in files.lines().filter(|file| !file.contains("/tests")) {
        let text =
            fs::read_to_string(run::workspace().join(file)).with_context(|| format!("reading {file}"))?;
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > 400 {
            println!("check: {file} has {lines} lines before its tests");
        }
    }
    Ok(())
}
