//! Whose container is this: from ids in the runtime's events to the worker that must look.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Wakes one worker. Pokes that come while it works are one.
#[derive(Clone, Debug)]
pub struct Poke(watch::Sender<u64>);

/// A worker's end of its [`Poke`]s.
#[derive(Debug)]
pub struct Poked(watch::Receiver<u64>);

/// A new pair.
pub fn poke() -> (Poke, Poked) {
    let (sender, receiver) = watch::channel(0);
    (Poke(sender), Poked(receiver))
}

impl Poke {
    /// Something happened: look again.
    pub fn poke(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Poked {
    /// Wait for a poke since the last wait. `false`: the sender is gone, the worker is to end.
    pub async fn wait(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Forget pokes so far: what they announced is about to be looked at.
    pub fn clear(&mut self) {
        self.0.mark_unchanged();
    }

    /// Whether there was a poke since.
    pub fn pending(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
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

    /// Something happened to a container or sandbox. `false`: nobody knows it.
    pub fn poke(&self, id: &str) -> bool {
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
        assert!(!poked.pending());
        assert!(roster.poke("c1") && roster.poke("c1"));
        assert!(poked.pending() && poked.wait().await);
        assert!(!poked.pending());
        roster.remove("c1");
        assert!(!roster.poke("c1"));
        drop((poke, roster));
        assert!(!poked.wait().await, "nobody can poke any more");
    }
}
