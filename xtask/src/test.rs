//! The suite: stages in order, the time of each, one sum at the end.
//!
//! | rung | what | where |
//! |---|---|---|
//! | 1–2 | tables, properties, loops over fake doors | every crate's own tests, and the examples in the documentation |
//! | 3 | programs on crafted packets and real namespaces, CNI verbs | `tests/tests/{programs,dataplane,cni}*.rs` |
//! | 4 | nodes with real containerd | every other file in `tests/tests` |

mod cannot;
mod snapshot;
mod sweep;
mod tally;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use snapshot::Snapshot;
use tally::Tally;

use crate::{
    build::{self, Executable, SELECTION},
    image, run, setup,
};

/// The rung of an executable: the test crate's files need root, all others nothing.
fn rung_of(executable: &Executable) -> u8 {
    if executable.package != "keelson-tests" || !executable.integration {
        return 1;
    }
    if RUNG_3.iter().any(|prefix| executable.name.starts_with(prefix)) {
        3
    } else {
        4
    }
}

/// Files of rung 3 begin with one of these.
const RUNG_3: [&str; 4] = ["programs", "dataplane", "cni", "conformance"];

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    rung: Option<u8>,
    only: Option<String>,
    long: bool,
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--long" => options.long = true,
            "--only" => {
                options.only = Some(
                    rest.next()
                        .context("--only needs the name of a file in tests/tests")?
                        .clone(),
                )
            }
            "--rung" => {
                let rung = rest.next().context("--rung needs a number from 1 to 4")?;
                let rung = rung.parse().ok().filter(|rung| (1..=4).contains(rung));
                options.rung = Some(rung.context("--rung needs a number from 1 to 4")?);
            }
            other => bail!("test does not know {other:?}; it takes --rung N, --only NAME and --long"),
        }
    }
    Ok(options)
}

/// `test`.
pub fn run(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    run::need_root("the tests make namespaces and load kernel programs")?;
    let mut suite = Suite {
        options,
        executables: Vec::new(),
        tally: Tally::default(),
        times: Vec::new(),
        failures: Vec::new(),
    };
    if let Err(error) = suite.all() {
        suite.failures.push(format!("{error:#}"));
    }
    // Nodes of tests that were ended for taking too long.
    sweep::sweep()?;
    suite.close()
}

struct Suite {
    options: Options,
    executables: Vec<Executable>,
    tally: Tally,
    times: Vec<(String, Duration)>,
    failures: Vec<String>,
}

impl Suite {
    fn all(&mut self) -> Result<()> {
        self.stage("setup", |_| setup::run(&[]))?;
        self.stage("build", |suite| {
            suite.executables = build::all()?;
            Ok(())
        })?;
        if self.wants(4) {
            self.stage("images", |_| image::ensure_all())?;
        }
        sweep::sweep()?;
        let before = Snapshot::take()?;
        if self.wants(1) || self.wants(2) {
            self.stage("rungs 1-2", Suite::small)?;
        }
        for rung in [3, 4] {
            if self.wants(rung) {
                self.stage(&format!("rung {rung}"), |suite| suite.files(rung))?;
            }
        }
        self.stage("what cannot run here", |suite| {
            suite.failures.extend(cannot::check()?);
            Ok(())
        })?;
        self.failures.extend(before.differences(&Snapshot::take()?));
        Ok(())
    }

    fn wants(&self, rung: u8) -> bool {
        self.options
            .rung
            .is_none_or(|only| only == rung || only <= 2 && rung <= 2)
    }

    /// A stage that cannot be carried out ends the suite; tests that fail do not.
    fn stage(&mut self, name: &str, action: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        println!("\n== {name}");
        let started = Instant::now();
        let result = action(self).with_context(|| format!("stage {name}"));
        self.times.push((name.to_owned(), started.elapsed()));
        result
    }

    /// Everything but the files of the test crate: no root needed, so all at once.
    fn small(&mut self) -> Result<()> {
        for executable in self.of_rung(1) {
            self.execute(&executable, &[])?;
        }
        let mut documentation = run::cargo();
        documentation.args(["test", "--doc", "--quiet"]).args(SELECTION);
        self.count("examples in the documentation", &mut documentation)
    }

    /// The files of a rung.
    fn files(&mut self, rung: u8) -> Result<()> {
        for executable in self.of_rung(rung) {
            // Nodes share the machine's few cores; one at a time is faster, and its failures are readable.
            self.execute(&executable, &["--test-threads=1"])?;
        }
        Ok(())
    }

    fn of_rung(&self, rung: u8) -> Vec<Executable> {
        let wanted = |executable: &&Executable| {
            rung_of(executable) == rung
                && self
                    .options
                    .only
                    .as_ref()
                    .is_none_or(|only| executable.name == *only)
        };
        self.executables.iter().filter(wanted).cloned().collect()
    }

    fn execute(&mut self, executable: &Executable, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&executable.program);
        command
            .args(arguments)
            .current_dir(&executable.folder)
            .env("CARGO_MANIFEST_DIR", &executable.folder);
        if self.options.long {
            command.arg("--include-ignored").env("KEELSON_TEST_LONG", "1");
        }
        let kind = if executable.integration { "tests" } else { "units" };
        self.count(
            &format!("{} {kind}/{}", executable.package, executable.name),
            &mut command,
        )
    }

    /// Run tests, let their output through, and count what they say of themselves.
    fn count(&mut self, name: &str, command: &mut Command) -> Result<()> {
        run::step(name);
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the tests of {name}"))?;
        let watch = watch(child.id(), name);
        let output = child.stdout.take().context("the output is piped")?;
        let mut tally = Tally::default();
        let mut closed = false;
        for line in BufReader::new(output).lines() {
            let line = line?;
            closed |= line.starts_with("test result: ");
            tally.read(&line);
            println!("{line}");
        }
        let status = child.wait()?;
        // Told that there is nothing to watch any more.
        drop(watch);
        if !closed || (!status.success() && tally.failed == 0) {
            self.failures
                .push(format!("the tests of {name} did not run to their end: {status}"));
        }
        self.tally += tally;
        println!("{tally} in {:.1} s: {name}", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// The last line is the sum; the exit code says the same.
    fn close(self) -> Result<()> {
        println!();
        for (name, time) in &self.times {
            println!("{name}: {:.0} s", time.as_secs_f64());
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        let mut tally = self.tally;
        tally.failed += self.failures.len();
        if tally.passed == 0 && tally.failed == 0 {
            println!("FAILED: no test ran");
            tally.failed = 1;
        }
        println!("\n{tally}");
        if tally.failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Nothing that is started takes longer; a test that hangs must not hang the suite.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// End a process that takes too long, unless what is returned is dropped before.
fn watch(pid: u32, name: &str) -> mpsc::Sender<()> {
    let (ended, told) = mpsc::channel::<()>();
    let name = name.to_owned();
    thread::spawn(move || {
        if told.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("{name} took longer than {LIMIT:?} and is ended");
            run::succeeds(Command::new("kill").args(["-KILL", &pid.to_string()]));
        }
    });
    ended
}

/// Run a shell line of ours; whether it succeeded.
fn shell(line: &str) -> bool {
    run::succeeds(Command::new("sh").args(["-c", line]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_bad_ones_refused() {
        let options = parsed("--rung 3 --long").expect("options");
        assert_eq!(
            options,
            Options {
                rung: Some(3),
                only: None,
                long: true
            }
        );
        for bad in ["--rung 5", "--rung", "--only", "--fast"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
