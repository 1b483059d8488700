//! Events: what a user should hear about an object, in Kubernetes' shape.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use keelson_core::object::Key;
use uuid::Uuid;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `Pod`, `Service`, …
    pub kind: &'static str,
    /// Namespace and name.
    pub key: Key,
    /// UID, where the object has one.
    pub uid: Option<String>,
    /// Part of the object, e.g. `spec.containers{web}`.
    pub field: Option<String>,
}

/// `Normal`: things go as they should.
pub const NORMAL: &str = "Normal";
/// `Warning`: somebody should look.
pub const WARNING: &str = "Warning";

/// A new event, seen once.
pub fn event(subject: Subject, type_: &str, reason: &str, message: &str, now: Timestamp) -> Event {
    let Subject {
        kind,
        key,
        uid,
        field,
    } = subject;
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", key.name, Uuid::new_v4().simple())),
            namespace: Some(key.namespace.clone()),
            creation_timestamp: Some(Time(now)),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            kind: Some(kind.to_owned()),
            namespace: Some(key.namespace),
            name: Some(key.name),
            uid,
            field_path: field,
            ..ObjectReference::default()
        },
        type_: Some(type_.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource {
            component: Some("keelson".to_owned()),
            host: None,
        }),
        reporting_component: Some("keelson".to_owned()),
        ..Event::default()
    }
}
