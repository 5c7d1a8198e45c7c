//! The actors' end of a stream of events.
//!
//! Invariant: a stream always gets a last word. Room for it is set aside when the stream opens, so that it never waits
//! for a slow reader; and an outlet that is dropped in whatever way (an actor's panic, a kill, a lost message) says that
//! the answer was lost.

use candlewick_protocol::{ErrorKind, Failure};
use tokio::sync::mpsc;

/// Sends events to one reader.
pub struct Outlet<E: Send + 'static> {
    events: mpsc::Sender<E>,
    /// Room for the last word, and what it is if nobody says another; gone once it is said.
    last_word: Option<(mpsc::OwnedPermit<E>, E)>,
    capacity: usize,
}

impl<E: Send + 'static> Outlet<E> {
    /// A stream on which so many events may wait for their reader, beside the last one. It ends with `lost` if it is lost.
    pub fn open(capacity: usize, lost: E) -> (Self, mpsc::Receiver<E>) {
        let capacity = capacity.max(1);
        let (events, reader) = mpsc::channel(capacity + 1);
        let permit = events.clone().try_reserve_owned().expect("a new channel has room");
        (Self { events, last_word: Some((permit, lost)), capacity }, reader)
    }

    /// Sends an event, or gives it back if the reader is behind. What is sent to a reader who left is forgotten.
    pub fn try_send(&self, event: E) -> Result<(), E> {
        match self.events.try_send(event) {
            Err(mpsc::error::TrySendError::Full(event)) => Err(event),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Says the last word. Never waits; only the first counts.
    pub fn end(&mut self, event: E) {
        if let Some((permit, _)) = self.last_word.take() {
            permit.send(event);
        }
    }

    /// Whether the reader has left.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Ends when the reader has left.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<E> {
        let events = self.events.clone();
        async move { events.closed().await }
    }

    /// Ends when the reader has made room for half of what may wait, so that a reader who is slow is not woken and put
    /// to sleep again with every single event; or when the reader has left.
    pub fn room(&self) -> impl Future<Output = ()> + Send + use<E> {
        let (events, num_events) = (self.events.clone(), self.capacity.div_ceil(2));
        async move {
            // An error means that the reader has left: then there is nothing to wait for either.
            let _ = events.reserve_many(num_events).await;
        }
    }
}

impl<E: Send + 'static> Drop for Outlet<E> {
    fn drop(&mut self) {
        if let Some((permit, lost)) = self.last_word.take() {
            permit.send(lost);
        }
    }
}

/// What is told where an actor took an answer with it.
pub fn lost() -> Failure {
    Failure::new(ErrorKind::Internal, "the request was lost: the actor that held it has crashed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_finds_room_on_a_full_stream() {
        let (mut outlet, mut reader) = Outlet::open(2, "lost");
        assert_eq!(outlet.try_send("a"), Ok(()));
        assert_eq!(outlet.try_send("b"), Ok(()));
        assert_eq!(outlet.try_send("c"), Err("c"));
        outlet.end("last");
        outlet.end("second last");
        drop(outlet);
        assert_eq!(std::iter::from_fn(|| reader.try_recv().ok()).collect::<Vec<_>>(), ["a", "b", "last"]);
    }

    #[test]
    fn an_outlet_that_is_lost_says_so() {
        let (outlet, mut reader) = Outlet::open(1, "lost");
        drop(outlet);
        assert_eq!(reader.try_recv(), Ok("lost"));
    }
}
