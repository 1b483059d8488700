//! A network namespace with a thread that lives in it.

use std::{
    process::{Command, Output},
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in its own network and mount namespace; both end with it.
pub struct Room {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, by which `ip` finds the namespace.
    pub tid: i32,
}

impl Room {
    /// Opens a new one, with lo up.
    pub fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (ready, opened) = channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .expect("unshare: these tests need root");
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .expect("private mounts");
            ready.send(nix::unistd::gettid().as_raw()).expect("opener waits");
            for job in inbox {
                job();
            }
        });
        let tid = opened.recv().expect("namespaces made");
        let room = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        };
        room.ip("link set lo up");
        room
    }

    /// Runs something inside and waits for its result; a panic inside is a panic here.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(outcome);
        };
        self.jobs
            .as_ref()
            .expect("room is open")
            .send(Box::new(job))
            .expect("room is alive");
        match result.recv().expect("room answers") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a command inside.
    pub fn command(&self, line: &str) -> Output {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            Command::new(&words[0])
                .args(&words[1..])
                .output()
                .expect("command runs")
        })
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn must(&self, line: &str) -> String {
        let output = self.command(line);
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Several `ip` commands, one per line.
    pub fn ip(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.must(&format!("ip {line}"));
        }
    }

    /// Writes settings below `/proc/sys/net/ipv4`, one `key value` per line.
    pub fn set(&self, lines: &str) {
        let lines = lines.to_owned();
        self.run(move || {
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let (key, value) = line.split_once(' ').expect("key and value");
                std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value)
                    .unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
