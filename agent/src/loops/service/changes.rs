//! What changed among the objects since the last look. Objects are replaced, never altered, so two lists differ where their
//! pointers do: no object is compared with another, and nothing is copied but what changed.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use keelson_core::object::Key;

/// An object as it is now; `None` = it is gone.
pub(super) type Change<T> = (Key, Option<Arc<T>>);

/// Make `known` equal to `current`, and tell what was different.
pub(super) fn follow<T>(
    known: &mut BTreeMap<Key, Arc<T>>,
    current: &BTreeMap<Key, Arc<T>>,
) -> Vec<Change<T>> {
    let changes = differences(known, current);
    for (key, object) in &changes {
        match object {
            Some(object) => drop(known.insert(key.clone(), object.clone())),
            None => drop(known.remove(key)),
        }
    }
    changes
}

/// Both lists are in the order of their keys, so one walk over both is enough.
fn differences<T>(known: &BTreeMap<Key, Arc<T>>, current: &BTreeMap<Key, Arc<T>>) -> Vec<Change<T>> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (known.iter().peekable(), current.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // The same object stands under the same key: no need to read the keys.
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {
                old.next();
                new.next();
                continue;
            }
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        if order.is_le() {
            let gone = old.next().filter(|_| order.is_lt());
            changes.extend(gone.map(|(key, _)| (key.clone(), None)));
        }
        if order.is_ge() {
            let there = new.next();
            changes.extend(there.map(|(key, object)| (key.clone(), Some(object.clone()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, &Arc<u8>)]) -> BTreeMap<Key, Arc<u8>> {
        entries
            .iter()
            .map(|(name, object)| (Key::new("ns", name), Arc::clone(object)))
            .collect()
    }

    fn names(changes: &[Change<u8>]) -> Vec<(&str, Option<u8>)> {
        changes
            .iter()
            .map(|(key, object)| (key.name.as_str(), object.as_deref().copied()))
            .collect()
    }

    #[test]
    fn what_came_went_and_was_replaced_is_told_once() {
        let (one, two, three) = (Arc::new(1), Arc::new(2), Arc::new(3));
        let mut known = list(&[("a", &one), ("b", &two), ("d", &one)]);
        let current = list(&[("b", &three), ("c", &two), ("d", &one), ("e", &one)]);
        let changes = follow(&mut known, &current);
        assert_eq!(
            names(&changes),
            [("a", None), ("b", Some(3)), ("c", Some(2)), ("e", Some(1))]
        );
        assert!(follow(&mut known, &current).is_empty());
        assert_eq!(follow(&mut known, &BTreeMap::new()).len(), 4);
    }
}
