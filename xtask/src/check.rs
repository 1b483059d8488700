//! What must hold before a push: format, clippy, licences, docs.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{bpf, build::SELECTION, run, setup};

/// `check`.
pub fn run() -> Result<()> {
    step("format", run::cargo().args(["fmt", "--all", "--check"]))?;
    step(
        "clippy",
        run::cargo()
            .arg("clippy")
            .args(SELECTION)
            .args(["--all-targets", "--", "-D", "warnings"]),
    )?;
    match bpf::missing()? {
        None => {
            // Clippy's own driver is of another compiler than the one that builds for the kernel: that one's warnings count.
            let mut build = bpf::command()?;
            build.args([
                "rustc",
                "--package",
                "keelson-ebpf",
                "--release",
                "-Z",
                "build-std=core",
                "--target",
                "bpfel-unknown-none",
                "--target-dir",
                "target/bpf-build",
                "--",
                "-Dwarnings",
            ]);
            step("kernel programs build without a warning", &mut build)?;
        }
        Some(what) => bail!("the kernel programs cannot be checked: {what}: `cargo xtask setup` installs it"),
    }
    let deny = setup::cargo_deny()?;
    let mut licences = Command::new(deny);
    step(
        "licences and bans",
        licences
            .current_dir(run::workspace())
            .args(["--log-level", "error", "check"]),
    )?;
    let mut docs = run::cargo();
    docs.arg("doc")
        .args(SELECTION)
        .args(["--no-deps", "--document-private-items"]);
    step("docs", docs.env("RUSTDOCFLAGS", "-D warnings"))?;
    long_files()
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    println!("check: {name}");
    run::run(command).with_context(|| format!("check: {name}"))
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
