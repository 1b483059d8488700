//! One call: its time limit, and what its failure means.

use std::{future::Future, time::Duration};

use tonic::{Code, Response, Status};

use super::super::{Error, ErrorKind};

/// Await a call for at most `limit`; make its failure ours.
pub async fn call<T>(
    operation: &'static str,
    object: &str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure(operation, object, &status)),
        Err(_) => Err(Error {
            operation,
            object: object.to_owned(),
            kind: ErrorKind::Timeout,
            message: format!("the runtime did not answer within {} s", limit.as_secs()),
        }),
    }
}

fn failure(operation: &'static str, object: &str, status: &Status) -> Error {
    let kind = match status.code() {
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::NotFound => ErrorKind::NotFound,
        Code::Unimplemented => ErrorKind::Unimplemented,
        // A connection that broke under the call has no code of its own.
        Code::Unknown if std::error::Error::source(status).is_some() => ErrorKind::Unavailable,
        _ => ErrorKind::Refused,
    };
    let mut message = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = error.source();
    }
    Error {
        operation,
        object: object.to_owned(),
        kind,
        message,
    }
}

/// A missing object is what the caller wanted.
pub fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
