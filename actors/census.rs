//! Counts what lives: actors and stepper threads. "No actor is left" is then a number that tests and shutdown can wait for.

use std::sync::Arc;

use tokio::sync::watch;

/// How many actors and threads of one tree are alive.
pub struct Census {
    count: watch::Sender<usize>,
}

impl Census {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { count: watch::Sender::new(0) })
    }

    /// Counts the caller for as long as it keeps the answer.
    pub fn join(self: &Arc<Self>) -> Presence {
        self.count.send_modify(|count| *count += 1);
        Presence(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Ends when nobody is left.
    pub async fn empty(&self) {
        // An error would mean that the sender is gone, and it is `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One who is alive. Part of an actor's state, so that it leaves by whatever door the state does: stop, kill or panic.
pub struct Presence(Arc<Census>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}
