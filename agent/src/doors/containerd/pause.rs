//! The program that holds a pod's namespaces open, and the image around it.
//!
//! A machine without a registry needs it before any pod runs, so it is part of the agent: a static ELF file of a few
//! hundred bytes, written here instruction by instruction, since no compiler or image tool may be assumed where the
//! agent runs. It does three things: children of nobody (in a pod with one process namespace they become its own) are
//! reaped by the kernel because SIGCHLD is ignored with `SA_NOCLDWAIT`; SIGTERM and SIGINT are blocked and waited for,
//! since PID 1 does not die of their default action; either of them ends it with 0.

use std::collections::BTreeMap;

use serde_json::json;

use super::archive::{Blob, Content, Image, MANIFEST, digest_of};

/// Media types of the image's parts.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where the only segment is mapped.
const BASE: u64 = 0x40_0000;
/// ELF header and one program header.
const HEADERS: u64 = 64 + 56;

/// `x86_64` code followed by its two constants.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0xb8, 13, 0, 0, 0,                   //       mov eax, rt_sigaction
    0xbf, 17, 0, 0, 0,                   //       mov edi, SIGCHLD
    0x48, 0x8d, 0x35, 0x48, 0, 0, 0,     //       lea rsi, action
    0x31, 0xd2,                          //       xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,              //       mov r10d, 8 (bytes of a signal set)
    0x0f, 0x05,                          //       syscall
    0xb8, 14, 0, 0, 0,                   //       mov eax, rt_sigprocmask
    0x31, 0xff,                          //       xor edi, edi (SIG_BLOCK)
    0x48, 0x8d, 0x35, 0x50, 0, 0, 0,     //       lea rsi, set
    0x31, 0xd2,                          //       xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,              //       mov r10d, 8
    0x0f, 0x05,                          //       syscall
    0xb8, 128, 0, 0, 0,                  // wait: mov eax, rt_sigtimedwait
    0x48, 0x8d, 0x3d, 0x3a, 0, 0, 0,     //       lea rdi, set
    0x31, 0xf6,                          //       xor esi, esi (no siginfo)
    0x31, 0xd2,                          //       xor edx, edx (no time limit)
    0x41, 0xba, 8, 0, 0, 0,              //       mov r10d, 8
    0x0f, 0x05,                          //       syscall
    0x48, 0x85, 0xc0,                    //       test rax, rax
    0x78, 0xe3,                          //       js wait (interrupted by another signal)
    0xb8, 231, 0, 0, 0,                  //       mov eax, exit_group
    0x31, 0xff,                          //       xor edi, edi
    0x0f, 0x05,                          //       syscall
    1, 0, 0, 0, 0, 0, 0, 0,              // action: handler SIG_IGN
    2, 0, 0, 0, 0, 0, 0, 0,              //         flags SA_NOCLDWAIT
    0, 0, 0, 0, 0, 0, 0, 0,              //         no restorer
    0, 0, 0, 0, 0, 0, 0, 0,              //         empty mask
    0x02, 0x40, 0, 0, 0, 0, 0, 0,        // set:    SIGINT (2) and SIGTERM (15)
];

/// The program, or `None` on an architecture it was not written for.
pub fn program() -> Option<Vec<u8>> {
    cfg!(target_arch = "x86_64").then(elf)
}

/// A static 64-bit ELF executable for `x86_64` around [`CODE`].
fn elf() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    let mut file = Vec::with_capacity(HEADERS as usize + CODE.len());
    // Identification: 64 bit, little endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_le_bytes()); // executable
    file.extend(62u16.to_le_bytes()); // x86_64
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes()); // entry
    file.extend(64u64.to_le_bytes()); // program headers start here
    file.extend(0u64.to_le_bytes()); // no sections
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        // Sizes of this header and of a program header, their number; the same of sections, of which there is none.
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes()); // loadable
    file.extend(5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(CODE);
    file
}

/// The image as blobs in memory, to be stored under `name`.
pub fn image(name: &str) -> Result<Option<(Image, Content)>, std::io::Error> {
    let Some(program) = program() else {
        return Ok(None);
    };
    let layer = layer(&program)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "Env": ["PATH=/"], "User": "65535:65535" },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": digest_of(&config), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": digest_of(&layer), "size": layer.len() }],
    })
    .to_string()
    .into_bytes();
    let image = Image {
        name: name.to_owned(),
        media_type: MANIFEST.to_owned(),
        digest: digest_of(&manifest),
        size: manifest.len() as u64,
    };
    let blobs: BTreeMap<_, _> = [layer, config, manifest]
        .into_iter()
        .map(|bytes| (digest_of(&bytes), Blob::Memory(bytes)))
        .collect();
    Ok(Some((image, Content::memory(blobs))))
}

fn layer(program: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "pause", program)?;
    tar.into_inner()
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, process::ExitStatusExt},
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    struct Running {
        child: Child,
        path: std::path::PathBuf,
    }

    impl Running {
        fn start(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("keelson-pause-{}-{name}", std::process::id()));
            std::fs::write(&path, program().expect("x86_64")).expect("write the program");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                .expect("make it executable");
            // Another thread of the tests may hold the file open for writing across its fork: busy for a moment.
            let until = Instant::now() + Duration::from_secs(5);
            let child = loop {
                match Command::new(&path).spawn() {
                    Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                        assert!(Instant::now() < until, "{error}");
                        std::thread::yield_now();
                    }
                    other => break other.expect("the program starts"),
                }
            };
            Self { child, path }
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(self.child.id() as i32)
        }

        /// Value of a line of /proc/PID/status.
        fn status(&self, key: &str) -> String {
            let text =
                std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|value| value.trim().to_owned())
                .unwrap_or_default()
        }

        /// It sleeps only in the wait for its two signals, after it gave up SIGCHLD (bit 16).
        fn wait_until_waiting(&self) {
            let until = Instant::now() + Duration::from_secs(5);
            let ignores = |set: String| u64::from_str_radix(&set, 16).is_ok_and(|set| set & (1 << 16) != 0);
            while !ignores(self.status("SigIgn:")) || !self.status("State:").starts_with('S') {
                assert!(
                    Instant::now() < until,
                    "never waited: {:?}",
                    self.status("SigIgn:")
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn waits_until_it_is_told_to_end() {
        for (name, signal) in [("term", Signal::SIGTERM), ("int", Signal::SIGINT)] {
            let mut running = Running::start(name);
            running.wait_until_waiting();
            assert!(running.child.try_wait().expect("wait").is_none(), "it runs");
            kill(running.pid(), signal).expect("signal");
            let status = running.child.wait().expect("wait");
            assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal}");
        }
    }

    #[test]
    fn goes_on_waiting_when_it_was_stopped_and_continued() {
        let mut running = Running::start("cont");
        running.wait_until_waiting();
        kill(running.pid(), Signal::SIGSTOP).expect("stop");
        let until = Instant::now() + Duration::from_secs(5);
        while !running.status("State:").starts_with('T') {
            assert!(Instant::now() < until, "never stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(running.pid(), Signal::SIGCONT).expect("continue");
        running.wait_until_waiting();
        assert!(
            running.child.try_wait().expect("wait").is_none(),
            "it still waits"
        );
    }

    #[test]
    fn the_image_names_blobs_that_are_there() {
        let (image, content) = image("example/pause:1").expect("built").expect("x86_64");
        let closure = super::super::archive::closure(&content, &image).expect("whole");
        assert_eq!(closure.len(), 3, "layer, config, manifest");
    }
}
