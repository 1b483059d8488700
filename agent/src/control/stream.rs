//! Answers that are made while they are sent.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

/// How many answers may wait for a slow caller before their maker waits too.
const WAITING: usize = 8;

/// Where the maker puts its answers; an error means that nobody listens any more.
pub type Sink<T> = mpsc::Sender<Result<T, Status>>;

type Work = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A stream that drives its own maker. No task is needed: when the caller goes, the stream is dropped and the work ends with it.
pub struct Driven<T> {
    work: Option<Work>,
    failure: Option<Status>,
    answers: mpsc::Receiver<Result<T, Status>>,
}

/// Start `work` with a sink whose answers the stream yields. The work's own error comes last.
pub fn driven<T, F>(work: impl FnOnce(Sink<T>) -> F) -> Driven<T>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sink, answers) = mpsc::channel(WAITING);
    Driven {
        work: Some(Box::pin(work(sink))),
        failure: None,
        answers,
    }
}

impl<T> Stream for Driven<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(outcome) = work.as_mut().poll(context)
        {
            // The sink goes with the work, so the channel ends after what is in it.
            self.work = None;
            self.failure = outcome.err();
        }
        match self.answers.poll_recv(context) {
            Poll::Ready(None) => Poll::Ready(self.failure.take().map(Err)),
            other => other,
        }
    }
}

/// Nobody listens any more: the end of the work, and no failure of it.
pub fn send<T>(sent: Result<(), mpsc::error::SendError<T>>) -> Result<(), Status> {
    sent.map_err(|_| Status::cancelled("the caller has gone"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn everything_made_is_sent_and_the_failure_comes_last() {
        let stream = driven(|sink| async move {
            for number in 0..50 {
                send(sink.send(Ok(number)).await)?;
            }
            Err(Status::internal("broken"))
        });
        let mut all: Vec<Result<i32, Status>> = stream.collect().await;
        let last = all.pop().expect("the failure").expect_err("is an error");
        assert_eq!(last.message(), "broken");
        let made: Vec<i32> = all.into_iter().map(|one| one.expect("fine")).collect();
        assert_eq!(made, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_work_ends_when_the_caller_goes() {
        struct Told(mpsc::UnboundedSender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut stream = driven(|sink| async move {
            let _guard = Told(tell);
            send(sink.send(Ok(1)).await)?;
            std::future::pending::<()>().await;
            Ok(())
        });
        assert_eq!(stream.next().await.expect("one").expect("fine"), 1);
        assert!(told.try_recv().is_err(), "still at work");
        drop(stream);
        assert!(told.recv().await.is_some());
    }
}
