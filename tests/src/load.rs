//! A client that never stops asking: what it lost is what a promise was broken by.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};

use crate::{http, namespace::Namespace, wait};

/// Between two requests: steady, but no flood.
const PAUSE: Duration = Duration::from_millis(5);

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// A new one each.
    New,
    /// One after the other, each for as long as the server keeps it.
    Kept,
}

/// Requests one after the other, until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
    answered: Arc<std::sync::atomic::AtomicUsize>,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Report {
    /// Answered with 200.
    pub answered: usize,
    /// Everything else, in words.
    pub lost: Vec<String>,
}

impl Load {
    /// Begin in a namespace, each request on a new connection.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        Self::start_with(namespace, address, Connections::New)
    }

    /// Begin in a namespace.
    pub fn start_with(namespace: &Namespace, address: SocketAddr, connections: Connections) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (stopped, counted) = (stop.clone(), answered.clone());
        let thread = namespace.spawn(move || {
            let mut report = Report::default();
            let mut kept = http::Kept::new(address);
            let mut ask = || match connections {
                Connections::New => http::get(address, "/"),
                Connections::Kept => kept.get("/").map(|status| (status, String::new())),
            };
            while !stopped.load(Ordering::Relaxed) {
                match ask() {
                    Ok((200, _)) => {
                        report.answered += 1;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok((status, body)) => report.lost.push(format!("{status}: {body}")),
                    Err(error) => report.lost.push(format!("{error:#}")),
                }
                std::thread::sleep(PAUSE);
            }
            report
        })?;
        Ok(Self {
            stop,
            thread,
            answered,
        })
    }

    /// Wait until so many more were answered.
    pub fn wait_for(&self, more: usize) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        wait::holds("requests to be answered", Duration::from_secs(30), || {
            Ok(self.answered.load(Ordering::Relaxed) >= goal)
        })
    }

    /// End, and tell.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the load's thread panicked"))
    }

    /// End; fails if anything was lost or nothing was asked.
    pub fn stop_without_loss(self) -> Result<usize> {
        let report = self.stop()?;
        ensure!(
            report.lost.is_empty(),
            "{} lost of {}: {:?}",
            report.lost.len(),
            report.answered,
            report.lost
        );
        ensure!(report.answered > 0, "nothing was asked");
        Ok(report.answered)
    }
}
