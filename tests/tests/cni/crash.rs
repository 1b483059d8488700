//! What processes leave that end in the middle, and what a reboot leaves.

use std::{
    io::Write,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::lab::{Lab, conf, pod, unique};

/// Starts a call and kills it after `delay`. Says whether it was still running.
fn killed(lab: &Lab, verb: &str, id: &str, delay: Duration) -> bool {
    let mut child = lab.prepare(verb, Some(&pod(id))).spawn().unwrap();
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(conf(json!({})).to_string().as_bytes());
    let end = Instant::now() + delay;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let running = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    running
}

#[test]
fn an_add_killed_at_any_moment_is_repaired_by_the_next_call() {
    let lab = Lab::new();
    let first = lab.add("warm");
    lab.del("warm");
    let (mut cut_short, mut seed) = (0, u64::from(unique()));
    for round in 0..60_u64 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let delay = Duration::from_micros(200 + (seed >> 33) % 6000);
        let id = format!("k{}", round % 3);
        if !lab.path(&format!("/run/netns/{id}")).exists() {
            lab.netns(&id);
        }
        cut_short += u32::from(killed(&lab, "ADD", &id, delay));
        match round % 3 {
            // The runtime tries again: the same key gets a whole attachment.
            0 => {
                let result = lab.add(&id);
                assert_eq!(result["interfaces"][1]["name"], first["interfaces"][1]["name"]);
                lab.check(&id, &result).expect("CHECK after a crash");
                lab.del(&id);
            }
            // The runtime gives up on it, as it should.
            1 => lab.del(&id),
            // Nobody comes back: garbage collection finds it.
            _ => {
                lab.call("GC", None, &conf(json!({"cni.dev/valid-attachments": []})))
                    .expect("GC");
            }
        }
        lab.assert_clean();
    }
    assert!(
        cut_short > 10,
        "only {cut_short} of 60 calls were killed in the middle"
    );
}

#[test]
fn a_del_killed_at_any_moment_is_finished_by_the_next_one() {
    let lab = Lab::new();
    let mut cut_short = 0;
    for round in 0..20_u64 {
        lab.add("a");
        cut_short += u32::from(killed(&lab, "DEL", "a", Duration::from_micros(300 + round * 700)));
        lab.del("a");
        // The kernel may still be taking the killed process's link apart.
        crate::lab::until("the link is gone", || lab.links().is_empty());
        lab.assert_clean();
    }
    assert!(
        cut_short > 3,
        "only {cut_short} of 20 calls were killed in the middle"
    );
}

#[test]
fn another_boot_starts_from_nothing_and_takes_over_what_bears_its_name() {
    let lab = Lab::new();
    let before = lab.add("a");
    lab.add("b");
    lab.sh("echo 00000000-1111-2222-3333-444444444444 > /run/boot && mount --bind /run/boot /proc/sys/kernel/random/boot_id");
    // The records are another boot's: CHECK knows nobody, DEL does not mind.
    lab.check("a", &before).expect_code(101, "CHECK after a reboot");
    let again = lab.add("a");
    lab.check("a", &again).expect("CHECK of the new one");
    lab.del("b");
    lab.del("a");
    lab.assert_clean();
    lab.sh("umount /proc/sys/kernel/random/boot_id");
}

#[test]
fn a_lock_that_is_never_released_is_code_11_within_the_time_limit() {
    let lab = Lab::new();
    lab.add("a");
    let path = lab.records().pop().unwrap();
    let pool = lab.path("/run/keelson/cni/keelson/pool");
    for (file, verb, id) in [
        (&path, "ADD", "a"),
        (&path, "DEL", "a"),
        (&pool, "ADD", "b"),
        (&pool, "DEL", "a"),
    ] {
        if !lab.path(&format!("/run/netns/{id}")).exists() {
            lab.netns(id);
        }
        let held = std::fs::File::open(file).unwrap();
        // SAFETY: flock takes a descriptor and no memory.
        assert_eq!(unsafe { libc::flock(held.as_raw_fd(), libc::LOCK_EX) }, 0);
        let start = Instant::now();
        let message = lab
            .call(verb, Some(&pod(id)), &conf(json!({})))
            .expect_code(11, verb);
        assert!(message.contains("lock /run/keelson/cni/keelson/"), "{message}");
        let took = start.elapsed();
        assert!(
            Duration::from_secs(8) < took && took < Duration::from_secs(11),
            "{verb}: {took:?}"
        );
    }
    lab.del("b");
    lab.del("a");
    lab.assert_clean();
}

#[test]
fn an_input_that_never_ends_is_code_11_within_the_time_limit() {
    let lab = Lab::new();
    let mut child = lab.prepare("ADD", Some(&pod("a"))).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{").unwrap();
    let start = Instant::now();
    let waiter = thread::spawn(move || child.wait_with_output().unwrap());
    let output = waiter.join().unwrap();
    drop(input);
    assert!(start.elapsed() < Duration::from_secs(12));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["code"], 11);
}
