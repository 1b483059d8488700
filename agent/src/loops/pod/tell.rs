//! Events about a pod or one of its containers.

use jiff::Timestamp;
use keelson_core::object::Key;

use crate::{
    events::{self, Subject},
    world::World,
};

/// Things go as they should.
pub fn normal(world: &World, key: &Key, uid: &str, container: Option<&str>, reason: &str, message: &str) {
    tell(world, (key, uid, container), events::NORMAL, reason, message);
}

/// Somebody should look.
pub fn warning(world: &World, key: &Key, uid: &str, container: Option<&str>, reason: &str, message: &str) {
    tell(world, (key, uid, container), events::WARNING, reason, message);
}

fn tell(
    world: &World,
    (key, uid, container): (&Key, &str, Option<&str>),
    kind: &str,
    reason: &str,
    message: &str,
) {
    let subject = Subject {
        kind: "Pod",
        key: key.clone(),
        uid: Some(uid.to_owned()),
        field: container.map(|name| format!("spec.containers{{{name}}}")),
    };
    let event = events::event(subject, kind, reason, message, Timestamp::now());
    world.update(|objects| objects.record(event));
}
