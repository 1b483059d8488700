//! What the machine needs, and how to get it. Idempotent: what is there is left alone.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::run;

/// Debian packages, and what each is for. The first group only where rustup has no nightly with rust-src.
const COMPILER: [(&str, &str); 2] = [
    ("rustc-web", "a compiler that builds for the kernel's machine"),
    ("rust-web-src", "its library's source"),
];
const PACKAGES: [(&str, &str); 13] = [
    ("llvm-22-dev", "bpf-linker is linked with it"),
    ("libpolly-22-dev", "bpf-linker is linked with it"),
    ("zlib1g-dev", "bpf-linker is linked with it"),
    ("libzstd-dev", "bpf-linker is linked with it"),
    ("gcc", "some libraries build a little C"),
    ("g++", "bpf-linker is linked with its library"),
    ("protobuf-compiler", "containerd's client is generated with it"),
    ("containerd", "the tests run pods with it"),
    ("runc", "the tests run pods with it"),
    ("busybox-static", "the test image is made of it"),
    ("iproute2", "tests look at devices and routes with it"),
    ("iputils-ping", "tests ping with it"),
    ("procps", "the harness looks at processes with it"),
];
/// Programs that a machine may have from elsewhere: installing the package beside them could replace what runs there.
const PROGRAMS: [(&str, &str); 7] = [
    ("gcc", "cc"),
    ("g++", "c++"),
    ("protobuf-compiler", "protoc"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iproute2", "ip"),
    ("iputils-ping", "ping"),
];
/// Only for comparison in the benchmarks.
pub const PEERS: [(&str, &str); 1] = [("containernetworking-plugins", "the benchmark's peer")];

/// Version of the linker that goes with LLVM 22.
const BPF_LINKER: &str = "0.13.0";
/// Version of the licence checker that this compiler builds.
const CARGO_DENY: &str = "0.20.2";

/// `setup [--check]`.
pub fn run(arguments: &[String]) -> Result<()> {
    let only_check = match arguments {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("setup takes --check or nothing, not {arguments:?}"),
    };
    let missing = missing_packages();
    let linker = bpf_linker()?;
    if only_check {
        for (package, why) in &missing {
            println!("missing: Debian package {package} ({why})");
        }
        if !linker.exists() {
            println!("missing: bpf-linker {BPF_LINKER} at {}", linker.display());
        }
        ensure!(
            missing.is_empty() && linker.exists(),
            "something is missing; `cargo xtask setup` installs it"
        );
        println!("setup: nothing is missing");
        return Ok(());
    }
    install_packages(&missing)?;
    install_linker(&linker)
}

/// Install packages, telling each.
pub fn install_packages(missing: &[(&str, &str)]) -> Result<()> {
    if missing.is_empty() {
        println!("setup: all Debian packages are there");
        return Ok(());
    }
    ensure!(
        run::is_root()?,
        "installing Debian packages needs root: {}",
        names(missing)
    );
    for (package, why) in missing {
        println!("setup: installing {package} ({why})");
    }
    update_lists()?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ]);
    // Nothing may be started on the machine: the tests run their own.
    install
        .env("RUNLEVEL", "1")
        .args(missing.iter().map(|(package, _)| package));
    run::run(&mut install)
}

/// Fetch the package lists, of which a fresh machine has none.
pub fn update_lists() -> Result<()> {
    run::step("apt-get update");
    run::run(Command::new("apt-get").args(["update", "-qq"]))
}

fn names(packages: &[(&str, &str)]) -> String {
    packages
        .iter()
        .map(|(package, _)| *package)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Packages that are not installed.
fn missing_packages() -> Vec<(&'static str, &'static str)> {
    let compiler = if rustup_nightly() { &[][..] } else { &COMPILER[..] };
    missing(compiler.iter().chain(&PACKAGES).copied())
}

/// Those of a list that are not installed.
pub fn missing(
    packages: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Vec<(&'static str, &'static str)> {
    packages
        .into_iter()
        .filter(|(package, _)| !is_installed(package) && !has_program(package))
        .collect()
}

fn has_program(package: &str) -> bool {
    let program = PROGRAMS.iter().find(|(name, _)| *name == package);
    program.is_some_and(|(_, program)| run::find(program).is_some())
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]);
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

/// Whether rustup has a nightly with the library's source.
pub fn rustup_nightly() -> bool {
    let output = Command::new("rustup")
        .args(["component", "list", "--toolchain", "nightly", "--installed"])
        .output();
    output.is_ok_and(|output| {
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("rust-src")
    })
}

/// Where the linker is, or will be.
pub fn bpf_linker() -> Result<PathBuf> {
    Ok(run::cache()?.join(format!("bpf-linker-{BPF_LINKER}/bin/bpf-linker")))
}

fn install_linker(linker: &Path) -> Result<()> {
    if linker.exists() {
        println!("setup: bpf-linker {BPF_LINKER} is there");
        return Ok(());
    }
    println!("setup: building bpf-linker {BPF_LINKER} (a few minutes)");
    let llvm = "/usr/lib/llvm-22";
    let path = std::env::var("PATH").unwrap_or_default();
    cargo_install(
        run::cargo()
            .env("PATH", format!("{llvm}/bin:{path}"))
            .env("RUSTFLAGS", format!("-L native={llvm}/lib"))
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--no-default-features",
                "--features",
                "llvm-22",
            ]),
        linker,
    )
}

/// The licence checker, installed when first asked for.
pub fn cargo_deny() -> Result<PathBuf> {
    let binary = run::cache()?.join(format!("cargo-deny-{CARGO_DENY}/bin/cargo-deny"));
    if !binary.exists() {
        println!("setup: building cargo-deny {CARGO_DENY} (a few minutes)");
        cargo_install(
            run::cargo().args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY]),
            &binary,
        )?;
    }
    Ok(binary)
}

/// Install into a folder of its own, and only then at its place: a build that is cut off leaves nothing half-made there.
fn cargo_install(command: &mut Command, binary: &Path) -> Result<()> {
    let place = binary.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let fresh = place.with_extension(format!("new-{}", std::process::id()));
    run::run(command.env_remove("CARGO_TARGET_DIR").arg("--root").arg(&fresh))?;
    if binary.exists() {
        // Somebody else was faster.
        return std::fs::remove_dir_all(&fresh).context("removing the second of two");
    }
    if place.exists() {
        std::fs::remove_dir_all(place).with_context(|| format!("replacing {}", place.display()))?;
    }
    std::fs::rename(&fresh, place).with_context(|| format!("renaming to {}", place.display()))
}
