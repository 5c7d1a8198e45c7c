//! Who may come in: so many requests per model, and one more is told at once when to try again.
//!
//! [`Counts`] decides and is pure; [`Admission`] shares it. A permit lives as long as its request's actor, which lives
//! until the last event is on the stream, and not only as long as the HTTP handler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candlewick_protocol::{ErrorKind, Failure};
use tokio::sync::watch;

/// Limits on the requests of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Most that are generating.
    pub max_running: usize,
    /// Most that wait.
    pub max_queued: usize,
}

/// Requests in flight by model, and how long the last ones took.
#[derive(Debug, Default)]
struct Counts {
    models: HashMap<String, ModelCount>,
    num_in_flight: usize,
    draining: bool,
}

#[derive(Debug, Default)]
struct ModelCount {
    num_in_flight: usize,
    /// Moving average of how long a request takes.
    mean_duration: Option<Duration>,
}

/// Bounds of what a client is told to wait: less would be noise, more would be a guess.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

impl Counts {
    fn admit(&mut self, model: &str, limits: AdmissionLimits) -> Result<(), Failure> {
        if self.draining {
            return Err(draining());
        }
        let num_in_flight = self.models.get(model).map_or(0, |count| count.num_in_flight);
        if num_in_flight >= limits.max_running + limits.max_queued {
            let message = format!(
                "model '{model}' is busy: {num_in_flight} requests are in flight, at most {} may run and {} wait",
                limits.max_running, limits.max_queued
            );
            let retry_after = self.models.get(model).and_then(|count| count.mean_duration);
            return Err(Failure::new(ErrorKind::Overloaded, message).with_retry_after(
                until_a_place_is_free(retry_after.unwrap_or(RETRY_AFTER_MIN), limits.max_running),
            ));
        }
        self.models.entry(model.into()).or_default().num_in_flight += 1;
        self.num_in_flight += 1;
        Ok(())
    }

    fn release(&mut self, model: &str, duration: Duration) {
        self.num_in_flight -= 1;
        let Some(count) = self.models.get_mut(model) else { return };
        count.num_in_flight -= 1;
        // One part in eight is new: a burst of short requests does not make us promise too much.
        let mean = count.mean_duration.unwrap_or(duration);
        count.mean_duration = Some((mean * 7 + duration) / 8);
        if count.num_in_flight == 0 {
            self.models.remove(model);
        }
    }
}

/// With `max_running` requests at work that take `mean` each, one ends every `mean / max_running`.
fn until_a_place_is_free(mean: Duration, max_running: usize) -> Duration {
    let places = u32::try_from(max_running.max(1)).unwrap_or(u32::MAX);
    let wait = (mean / places).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
    Duration::from_secs(wait.as_millis().div_ceil(1000) as u64)
}

/// What is told to those who come while the server stops.
pub fn draining() -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        "the server is draining: it finishes what it has begun and takes no more requests",
    )
}

/// The door: shared by the gateway and the permits it gave.
pub struct Admission {
    counts: Mutex<Counts>,
    /// Requests in flight, for those who wait until there are none.
    num_in_flight: watch::Sender<usize>,
}

impl Admission {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), num_in_flight: watch::Sender::new(0) })
    }

    /// A permit for one request of a model, by canonical id.
    ///
    /// # Errors
    /// `Overloaded` with the time after which a place may be free; `Unavailable` while draining.
    pub fn admit(self: &Arc<Self>, model: &str, limits: AdmissionLimits) -> Result<Permit, Failure> {
        let mut counts = self.counts();
        counts.admit(model, limits)?;
        self.num_in_flight.send_replace(counts.num_in_flight);
        Ok(Permit { admission: self.clone(), model: model.into(), since: Instant::now() })
    }

    /// Admits no more.
    pub fn drain(&self) {
        self.counts().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.counts().draining
    }

    pub fn num_in_flight(&self) -> usize {
        self.counts().num_in_flight
    }

    /// Ends when no request is in flight.
    pub async fn empty(&self) {
        // An error would mean that the sender is gone, and it is `self`.
        let _ = self.num_in_flight.subscribe().wait_for(|count| *count == 0).await;
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one request to be here. Dropping it makes room for another.
pub struct Permit {
    admission: Arc<Admission>,
    model: String,
    since: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.release(&self.model, self.since.elapsed());
        self.admission.num_in_flight.send_replace(counts.num_in_flight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits { max_running: 2, max_queued: 1 };

    #[test]
    fn one_more_than_run_and_wait_is_refused_until_one_leaves() {
        let admission = Admission::new();
        let mut permits =
            (0..3).map(|_| admission.admit("m@main", LIMITS).expect("there is room")).collect::<Vec<_>>();
        let failure = admission.admit("m@main", LIMITS).err().expect("the model is full");
        assert_eq!(failure.kind, ErrorKind::Overloaded);
        assert!(failure.retry_after.is_some_and(|wait| wait >= RETRY_AFTER_MIN));
        let _other = admission.admit("other@main", LIMITS).expect("another model has its own places");
        permits.pop();
        let _again = admission.admit("m@main", LIMITS).expect("a place is free");
        assert_eq!(admission.num_in_flight(), 4);
    }

    #[test]
    fn nobody_enters_while_draining() {
        let admission = Admission::new();
        admission.drain();
        let failure = admission.admit("m@main", LIMITS).err().expect("the door is closed");
        assert_eq!(failure.kind, ErrorKind::Unavailable);
    }

    #[test]
    fn the_wait_is_the_time_until_one_of_them_ends() {
        assert_eq!(until_a_place_is_free(Duration::from_secs(40), 4), Duration::from_secs(10));
        assert_eq!(until_a_place_is_free(Duration::from_millis(10), 4), RETRY_AFTER_MIN);
        assert_eq!(until_a_place_is_free(Duration::from_secs(4000), 4), RETRY_AFTER_MAX);
        assert_eq!(until_a_place_is_free(Duration::from_millis(2500), 1), Duration::from_secs(3));
    }

    #[test]
    fn the_mean_follows_what_requests_take() {
        let mut counts = Counts::default();
        for _ in 0..3 {
            counts.admit("m", LIMITS).expect("there is room");
        }
        counts.release("m", Duration::from_secs(20));
        counts.admit("m", LIMITS).expect("there is room");
        let failure = counts.admit("m", LIMITS).expect_err("the model is full");
        assert_eq!(failure.retry_after, Some(Duration::from_secs(10)));
    }
}
