//! Threads that can be given up. A thread cannot be killed: one that hangs is left behind, counted for as long as it is
//! there, and whatever it brings back is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::ModelMetrics;
use crate::stepper::panic_text;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    AtWork,
    Lost,
    Gone,
}

struct Shared {
    standing: Mutex<Standing>,
    metrics: Arc<ModelMetrics>,
}

impl Shared {
    /// Changes where the thread stands, and answers where it stood.
    fn replace(&self, standing: Standing) -> Standing {
        let mut now = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        match (*now, standing) {
            (Standing::Gone, _) => Standing::Gone,
            _ => std::mem::replace(&mut now, standing),
        }
    }
}

/// A thread, seen by the one who waits for it.
pub struct Worker(Arc<Shared>);

/// The same, kept by the thread itself for as long as it works.
pub struct AtWork(Arc<Shared>);

/// A thread that is about to begin.
pub fn worker(metrics: &Arc<ModelMetrics>) -> (Worker, AtWork) {
    let shared = Arc::new(Shared { standing: Mutex::new(Standing::AtWork), metrics: metrics.clone() });
    (Worker(shared.clone()), AtWork(shared))
}

impl Worker {
    /// Nobody waits for it any more. One that has ended meanwhile is not counted.
    pub fn give_up(&self) {
        if self.0.replace(Standing::Lost) == Standing::AtWork {
            self.0.metrics.faults.threads_lost.inc();
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.0.replace(Standing::Gone) == Standing::Lost {
            self.0.metrics.faults.threads_lost.dec();
        }
    }
}

/// Why work on a thread of the blocking pool brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It panicked, with this text.
    #[error("it crashed: {0}")]
    Crashed(String),
    /// It took longer than this, and its thread was given up.
    #[error("it took longer than {} s, and was given up", .0.as_secs_f64())]
    Hung(Duration),
}

/// Time is waited for in so many pieces: a process that the system stops meanwhile loses one of them and not all.
const NUM_LOOKS: u32 = 8;

/// Does what blocks on the pool for that, and waits so long for it at most.
pub async fn blocking<T: Send + 'static>(
    metrics: &Arc<ModelMetrics>,
    at_most: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    let (worker, at_work) = worker(metrics);
    let mut work = tokio::task::spawn_blocking(move || {
        let _at_work = at_work;
        work()
    });
    for _ in 0..NUM_LOOKS {
        match tokio::time::timeout(at_most / NUM_LOOKS, &mut work).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                return Err(NoAnswer::Crashed(match error.try_into_panic() {
                    Ok(panic) => panic_text(&*panic).into(),
                    Err(_) => "its thread was stopped".into(),
                }));
            }
            Err(_) => {}
        }
    }
    worker.give_up();
    Err(NoAnswer::Hung(at_most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_thread_is_counted_from_when_it_is_given_up_until_it_ends() {
        let metrics = Metrics::new().model("org/m");
        let (one, at_work) = worker(&metrics);
        one.give_up();
        one.give_up();
        assert_eq!(metrics.faults.threads_lost.get(), 1.0);
        drop(at_work);
        assert_eq!(metrics.faults.threads_lost.get(), 0.0);
        let (other, at_work) = worker(&metrics);
        drop(at_work);
        other.give_up();
        assert_eq!(metrics.faults.threads_lost.get(), 0.0, "it was not lost but done");
    }
}
