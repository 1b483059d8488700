//! Embeds the object of the kernel programs: `$KEELSON_BPF_OBJECT`, else `target/bpf/keelson-ebpf` of the workspace.
//!
//! Where there is none an empty one is embedded: everything builds and the tests that need no programs run; loading then fails
//! and says what to do.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=KEELSON_BPF_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let object = env::var_os("KEELSON_BPF_OBJECT")
        .map_or_else(|| manifest.join("../../target/bpf/keelson-ebpf"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_else(|error| {
        println!(
            "cargo::warning=no kernel programs are embedded ({}: {error}); `cargo xtask build` builds them. Loading the dataplane will fail.",
            object.display()
        );
        Vec::new()
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("keelson-ebpf");
    fs::write(out, bytes).expect("OUT_DIR is writable");
}
