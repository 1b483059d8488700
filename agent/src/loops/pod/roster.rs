//! Whose container is this: from ids in the runtime's events to the worker that must look.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Wakes one worker. Pokes that come while it works are one.
#[derive(Clone, Debug)]
pub struct Poke(watch::Sender<Pokes>);

/// A worker's end of its [`Poke`]s.
#[derive(Debug)]
pub struct Poked {
    receiver: watch::Receiver<Pokes>,
    /// Waiting consumed a poke that was not taken yet.
    woken: bool,
    sender: watch::Sender<Pokes>,
}

/// What came since the worker looked last.
#[derive(Debug, Default)]
struct Pokes {
    /// Ids of containers and sandboxes whose process ended.
    ended: Vec<String>,
}

/// A new pair.
pub fn poke() -> (Poke, Poked) {
    let (sender, receiver) = watch::channel(Pokes::default());
    (
        Poke(sender.clone()),
        Poked {
            receiver,
            woken: false,
            sender,
        },
    )
}

impl Poke {
    /// Something happened: look again.
    pub fn poke(&self) {
        self.0.send_modify(|_| {});
    }

    /// The process of this container or sandbox ended.
    fn ended(&self, id: &str) {
        self.0.send_modify(|pokes| pokes.ended.push(id.to_owned()));
    }
}

impl Poked {
    /// Wait for a poke since the last look.
    pub async fn wait(&mut self) {
        // The sender lives in here as well: this cannot fail.
        let _ = self.receiver.changed().await;
        self.woken = true;
    }

    /// Take what there was: whether there was a poke, and whose process ended.
    pub fn take(&mut self) -> (bool, Vec<String>) {
        let poked = std::mem::take(&mut self.woken) | self.receiver.has_changed().unwrap_or(false);
        self.receiver.mark_unchanged();
        let mut ended = Vec::new();
        self.sender.send_if_modified(|pokes| {
            ended = std::mem::take(&mut pokes.ended);
            false
        });
        (poked, ended)
    }
}

/// Container and sandbox ids by the worker they belong to.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<HashMap<String, Poke>>>);

impl Roster {
    /// From now on, events of this container or sandbox wake that worker.
    pub fn add(&self, id: &str, poke: &Poke) {
        self.lock().insert(id.to_owned(), poke.clone());
    }

    /// It is gone.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The process of a container or sandbox ended. `false`: nobody knows it.
    pub fn ended(&self, id: &str) -> bool {
        let found = self.lock().get(id).cloned();
        found.inspect(|poke| poke.ended(id)).is_some()
    }

    /// Something happened to a container or sandbox that goes on. `false`: nobody knows it.
    pub fn touched(&self, id: &str) -> bool {
        let found = self.lock().get(id).cloned();
        found.inspect(Poke::poke).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Poke>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pokes_while_a_worker_works_are_one_and_none_is_lost() {
        let (poke, mut poked) = poke();
        let roster = Roster::default();
        roster.add("c1", &poke);
        assert_eq!(poked.take(), (false, vec![]));
        poke.poke();
        assert!(roster.ended("c1") && roster.ended("c1"));
        poked.wait().await;
        assert_eq!(poked.take(), (true, vec!["c1".to_owned(), "c1".to_owned()]));
        assert_eq!(poked.take(), (false, vec![]));
        poke.poke();
        assert_eq!(poked.take(), (true, vec![]));
        roster.remove("c1");
        assert!(!roster.ended("c1"));
    }
}
