//! What all of it ran on.

use std::{fs, process::Command};

/// One line for the machine, one for the programs beside us.
pub fn describe() -> [String; 2] {
    let cpu = field("/proc/cpuinfo", "model name");
    let memory: u64 = field("/proc/meminfo", "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|kilobytes| kilobytes.parse().ok())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    [
        format!(
            "{cpu}, {cores} cores, {:.1} GiB memory, Linux {}, load {load} at the end",
            memory as f64 / (1024.0 * 1024.0),
            kernel.trim(),
        ),
        format!(
            "containerd {}, {}, plugins {}",
            word(&first_line("containerd", &["--version"]), 2),
            first_line("runc", &["--version"]).replace("version ", ""),
            first_line(
                "dpkg-query",
                &["-W", "-f", "${Version}", "containernetworking-plugins"]
            ),
        ),
    ]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first field of that name, as `/proc` writes them.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The first line a program prints; a machine may lack it, and the table is still worth printing.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.unwrap_or_default().lines().next() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn word(line: &str, index: usize) -> &str {
    line.split_whitespace().nth(index).unwrap_or(line)
}
