//! Builds the kernel programs. They need a compiler that builds `core` from source: rustup's nightly where the machine has it, else
//! Debian's `rustc-web` told to accept what nightly accepts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{run, setup};

const MACHINE: &str = "bpfel-unknown-none";

/// What is missing for a build, in words; `None` = nothing.
pub fn missing() -> Result<Option<String>> {
    let linker = setup::bpf_linker()?;
    if !linker.exists() {
        return Ok(Some(format!("bpf-linker is not at {}", linker.display())));
    }
    if !setup::rustup_nightly() && !PathBuf::from("/usr/bin/rustc").exists() {
        return Ok(Some(
            "neither rustup's nightly with rust-src nor Debian's rustc-web is installed".into(),
        ));
    }
    Ok(None)
}

/// The dataplane's programs, and those the benchmarks hold them against.
pub const OBJECTS: [&str; 2] = ["keelson-ebpf", "keelson-floor"];

/// Where user space looks for an object.
fn place(object: &str) -> PathBuf {
    run::workspace().join("target/bpf").join(object)
}

/// Build, and put the objects in their places if they changed.
pub fn build() -> Result<()> {
    let folder = run::workspace().join("target/bpf-build");
    let mut cargo = command()?;
    cargo.args([
        "build",
        "--package",
        "keelson-ebpf",
        "--release",
        "-Z",
        "build-std=core",
        "--target",
        MACHINE,
    ]);
    run::run(cargo.arg("--target-dir").arg(&folder)).context("building the kernel programs")?;
    OBJECTS
        .into_iter()
        .try_for_each(|object| install(&folder.join(MACHINE).join("release").join(object), &place(object)))
}

fn install(built: &Path, place: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
    // Untouched if the same: everything that embeds it would be built anew.
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::create_dir_all(place.parent().context("the object has a folder")?)?;
    fs::write(place, bytes).with_context(|| format!("writing {}", place.display()))
}

/// cargo, set up for the kernel's machine.
pub fn command() -> Result<Command> {
    let linker = setup::bpf_linker()?;
    let folder = linker
        .parent()
        .context("the linker has a folder")?
        .display()
        .to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut cargo = if setup::rustup_nightly() {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(run::workspace())
            .env("RUSTUP_TOOLCHAIN", "nightly")
            .env_remove("RUSTC");
        cargo
    } else {
        let mut cargo = run::cargo();
        cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        cargo
    };
    let arch = std::env::consts::ARCH;
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ]
    .join("\u{1f}");
    cargo
        .env("PATH", format!("{folder}:{path}"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS");
    Ok(cargo)
}
