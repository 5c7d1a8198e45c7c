//! Who may come in: so many sequences per model, and one more is told at once when to try again.
//!
//! What is counted are sequences, because they are what the scheduler gives places to: a request takes one for each of its
//! choices. [`Counts`] decides and is pure; [`Admission`] shares it. A permit lives until its request's last event is
//! handed to the stream, and not only as long as the HTTP handler.
//!
//! Where all places are taken, one who has fewer of them than its share still comes in: nobody is kept out by the queue of
//! another, and nobody who waits is sent away for it. So there may be more in flight than there are places, by one share for
//! each who came to find them taken: with `k` holders of equal weight never more than `1 + 1/2 + … + 1/k` times as many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candlewick_protocol::{ErrorKind, Failure, Share};
use tokio::sync::watch;

use crate::outlook::Outlook;

/// Limits on the sequences of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Most that are generating.
    pub max_running: usize,
    /// Most that wait.
    pub max_queued: usize,
}

impl AdmissionLimits {
    fn num_places(self) -> usize {
        self.max_running.saturating_add(self.max_queued)
    }
}

/// Sequences in flight by model, and how long the last requests took.
#[derive(Debug, Default)]
struct Counts {
    models: HashMap<String, ModelCount>,
    /// Requests, over all models.
    num_requests: usize,
    draining: bool,
}

#[derive(Debug, Default)]
struct ModelCount {
    num_sequences: usize,
    /// Those who have sequences, by name.
    holders: HashMap<String, HolderCount>,
}

#[derive(Debug)]
struct HolderCount {
    num_sequences: usize,
    weight: u32,
}

impl ModelCount {
    /// How many of all places are one's own, beside those who are here.
    fn share_of(&self, share: &Share, num_places: usize) -> usize {
        let others = self.holders.iter().filter(|(holder, _)| **holder != share.holder);
        let weights = others.map(|(_, count)| u64::from(count.weight)).sum::<u64>() + u64::from(share.weight);
        let own = num_places as u64 * u64::from(share.weight) / weights.max(1);
        // Everybody may be here with something.
        usize::try_from(own).unwrap_or(usize::MAX).max(1)
    }

    fn num_sequences_of(&self, share: &Share) -> usize {
        self.holders.get(&share.holder).map_or(0, |count| count.num_sequences)
    }
}

/// Bounds of what a client is told to wait. Less would be noise; of more, OpenAI's clients take no notice, and come again at once.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// What is told where nothing can be foretold: the model is being loaded, or has never run.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(5);

/// A queue is clearly too long for a request if half of what is foretold is.
const DOUBT: u32 = 2;

/// Who asks to come in.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The model, by canonical id.
    pub model: &'a str,
    /// Whose requests they are.
    pub share: &'a Share,
    /// Requests that come in together, by how many sequences each has.
    pub requests: &'a [usize],
    /// How long they wait for their turn at most.
    pub patience: Option<Duration>,
}

impl Counts {
    /// Admits requests of so many sequences each: all of them, or none.
    fn admit(
        &mut self,
        asking: Asking<'_>,
        limits: AdmissionLimits,
        outlook: Option<&Outlook>,
    ) -> Result<(), Failure> {
        let Asking { model, share, requests, patience } = asking;
        if self.draining {
            return Err(draining());
        }
        let asked = could_ever_enter(requests, limits)?;
        let num_places = limits.num_places();
        let count = self.models.get(model);
        let num_sequences = count.map_or(0, |count| count.num_sequences);
        let num_own = count.map_or(0, |count| count.num_sequences_of(share));
        let is_within_share = count.is_some_and(|count| num_own + asked <= count.share_of(share, num_places));
        let until_ended = |num_ended: usize| {
            outlook?.until_ended(num_ended, num_sequences, limits.max_running, Instant::now())
        };
        if num_sequences + asked > num_places && !is_within_share {
            let message = format!(
                "model '{model}' is busy: {num_sequences} sequences are in flight and {asked} more are asked for, at most \
                 {} may run and {} wait",
                limits.max_running, limits.max_queued
            );
            let until_free = until_ended(num_sequences + asked - num_places).unwrap_or(RETRY_AFTER_UNKNOWN);
            return Err(overloaded(message, until_free));
        }
        if let Some(patience) = patience
            && num_sequences >= limits.max_running
            // One of another holder may be next; one of the same holder comes after those that wait.
            && let Some(until_turn) = until_ended(1 + num_own.saturating_sub(limits.max_running))
            && until_turn / DOUBT > patience
        {
            let message = format!(
                "model '{model}' is busy: a place in its batch is some {:.1} s away, and the request's timeout is {} s",
                until_turn.as_secs_f64(),
                patience.as_secs_f64()
            );
            return Err(overloaded(message, until_turn - patience));
        }
        let count = self.models.entry(model.into()).or_default();
        count.num_sequences += asked;
        let own = HolderCount { num_sequences: 0, weight: share.weight };
        let own = count.holders.entry(share.holder.clone()).or_insert(own);
        own.num_sequences += asked;
        own.weight = share.weight;
        self.num_requests += requests.len();
        Ok(())
    }

    fn release(&mut self, model: &str, holder: &str, num_sequences: usize) {
        self.num_requests -= 1;
        let Some(count) = self.models.get_mut(model) else { return };
        count.num_sequences -= num_sequences;
        if let Some(own) = count.holders.get_mut(holder) {
            own.num_sequences -= num_sequences;
            if own.num_sequences == 0 {
                count.holders.remove(holder);
            }
        }
        if count.num_sequences == 0 {
            self.models.remove(model);
        }
    }
}

/// The sequences of these requests together. More than there are places, and no time to come would be a better one.
fn could_ever_enter(requests: &[usize], limits: AdmissionLimits) -> Result<usize, Failure> {
    let (num_places, asked) = (limits.num_places(), requests.iter().sum::<usize>());
    let limit = format!(
        "at most {num_places} sequences of a model may be in flight, {} that run and {} that wait",
        limits.max_running, limits.max_queued
    );
    if let Some(n) = requests.iter().find(|&&n| n > num_places) {
        return Err(Failure::invalid("n", format!("n is {n}, but {limit}")));
    }
    if asked > num_places {
        let message = format!("{} prompts ask for {asked} sequences, but {limit}", requests.len());
        return Err(Failure::invalid("prompt", message));
    }
    Ok(asked)
}

fn overloaded(message: String, retry_after: Duration) -> Failure {
    let retry_after = retry_after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
    Failure::new(ErrorKind::Overloaded, message).with_retry_after(retry_after)
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
    /// What is known of the models that have run, by canonical id.
    outlooks: Mutex<HashMap<String, Arc<Outlook>>>,
    /// Requests in flight, for those who wait until there are none.
    num_in_flight: watch::Sender<usize>,
}

impl Admission {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::default(),
            outlooks: Mutex::default(),
            num_in_flight: watch::Sender::new(0),
        })
    }

    /// What is foretold of a model is made of what is told here.
    pub fn outlook(&self, model: &str) -> Arc<Outlook> {
        let mut outlooks = self.outlooks.lock().unwrap_or_else(PoisonError::into_inner);
        outlooks.entry(model.into()).or_default().clone()
    }

    /// A permit for each of these requests. Either all are admitted or none is.
    ///
    /// # Errors
    /// `Overloaded` with the time after which a place may be free, also if the queue is clearly longer than the patience of
    /// who asks; `InvalidRequest` if there are not so many places at all; `Unavailable` while draining.
    pub fn admit(
        self: &Arc<Self>,
        asking: Asking<'_>,
        limits: AdmissionLimits,
    ) -> Result<Vec<Permit>, Failure> {
        let Asking { model, share, requests, .. } = asking;
        let outlook = self.outlooks.lock().unwrap_or_else(PoisonError::into_inner).get(model).cloned();
        let mut counts = self.counts();
        counts.admit(asking, limits, outlook.as_deref())?;
        self.num_in_flight.send_replace(counts.num_requests);
        let permit = |&num_sequences: &usize| Permit {
            admission: self.clone(),
            model: model.into(),
            holder: share.holder.clone(),
            num_sequences,
        };
        Ok(requests.iter().map(permit).collect())
    }

    /// Admits no more.
    pub fn drain(&self) {
        self.counts().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.counts().draining
    }

    /// Requests in flight, over all models.
    pub fn num_in_flight(&self) -> usize {
        self.counts().num_requests
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
    holder: String,
    num_sequences: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.release(&self.model, &self.holder, self.num_sequences);
        self.admission.num_in_flight.send_replace(counts.num_requests);
    }
}

#[cfg(test)]
mod tests {
    use candlewick_engine::{SequenceWork, Workload};

    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits { max_running: 2, max_queued: 1 };

    fn asking<'a>(model: &'a str, share: &'a Share, requests: &'a [usize]) -> Asking<'a> {
        Asking { model, share, requests, patience: None }
    }

    fn admit(admission: &Arc<Admission>, model: &str, requests: &[usize]) -> Result<Vec<Permit>, Failure> {
        admission.admit(asking(model, &Share::default(), requests), LIMITS)
    }

    #[track_caller]
    fn refusal(admission: &Arc<Admission>, requests: &[usize]) -> Failure {
        admit(admission, "m@main", requests).err().expect("there is no room")
    }

    #[test]
    fn one_more_than_run_and_wait_is_refused_until_one_leaves() {
        let admission = Admission::new();
        let mut permits = admit(&admission, "m@main", &[1, 1, 1]).expect("there is room");
        let failure = refusal(&admission, &[1]);
        assert_eq!(failure.kind, ErrorKind::Overloaded);
        assert_eq!(failure.retry_after, Some(RETRY_AFTER_UNKNOWN), "the model has never run");
        let _other = admit(&admission, "other@main", &[1]).expect("another model has its own places");
        permits.pop();
        let _again = admit(&admission, "m@main", &[1]).expect("a place is free");
        assert_eq!(admission.num_in_flight(), 4);
    }

    #[test]
    fn each_choice_takes_a_place() {
        let admission = Admission::new();
        let two = admit(&admission, "m@main", &[2]).expect("there is room");
        assert_eq!(refusal(&admission, &[2]).kind, ErrorKind::Overloaded);
        let _one = admit(&admission, "m@main", &[1]).expect("there is room for one");
        drop(two);
        let _two = admit(&admission, "m@main", &[2]).expect("two places are free");
    }

    /// How many requests of one sequence come in, one after another, of so many.
    fn admitted(admission: &Arc<Admission>, holder: &str, weight: u32, num_asked: usize) -> Vec<Permit> {
        let share = Share { holder: holder.into(), weight };
        let limits = AdmissionLimits { max_running: 4, max_queued: 8 };
        let ask = |_| admission.admit(asking("m@main", &share, &[1]), limits).ok();
        (0..num_asked).filter_map(ask).flatten().collect()
    }

    #[test]
    fn a_queue_that_one_has_filled_keeps_out_nobody_else() {
        let admission = Admission::new();
        let flood = admitted(&admission, "flood", 1, 200);
        assert_eq!(flood.len(), 12, "alone, one has all places");
        let other = admitted(&admission, "other", 1, 200);
        assert_eq!(other.len(), 6, "half of them, beside one of equal weight");
        let third = admitted(&admission, "third", 1, 200);
        assert_eq!(third.len(), 4);
        assert_eq!(admitted(&admission, "flood", 1, 1).len(), 0, "it has more than its share");
        drop(other);
        assert_eq!(admitted(&admission, "other", 1, 1).len(), 1, "its places are still its own");
        drop((flood, third));
        assert_eq!(admitted(&admission, "flood", 1, 200).len(), 12);
    }

    #[test]
    fn shares_go_by_weight_and_everybody_has_one_place_at_least() {
        let admission = Admission::new();
        let _flood = admitted(&admission, "flood", 3, 200);
        assert_eq!(admitted(&admission, "light", 1, 200).len(), 3);
        assert_eq!(admitted(&admission, "heavy", 9, 200).len(), 9);
        assert_eq!(admitted(&admission, "tiny", 1, 200).len(), 3);
        let _heavy = admitted(&admission, "heavy", 1000, 200);
        assert_eq!(admitted(&admission, "tiny", 1, 200).len(), 1);
    }

    #[test]
    fn several_requests_come_in_together_or_not_at_all() {
        let admission = Admission::new();
        let _two = admit(&admission, "m@main", &[1, 1]).expect("there is room");
        assert_eq!(refusal(&admission, &[1, 1]).kind, ErrorKind::Overloaded);
        assert_eq!(admission.num_in_flight(), 2);
        let _one = admit(&admission, "m@main", &[1]).expect("the place was not taken");
    }

    #[test]
    fn what_could_never_enter_is_told_which_field_asks_too_much() {
        let admission = Admission::new();
        for (requests, param) in [(&[4][..], "n"), (&[1, 4], "n"), (&[2, 2], "prompt")] {
            let failure = refusal(&admission, requests);
            assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)));
            assert!(failure.message.contains("at most 3 sequences"), "{failure}");
        }
        assert_eq!(admission.num_in_flight(), 0);
    }

    #[test]
    fn nobody_enters_while_draining() {
        let admission = Admission::new();
        admission.drain();
        let failure = admit(&admission, "m@main", &[1]).err().expect("the door is closed");
        assert_eq!(failure.kind, ErrorKind::Unavailable);
    }

    /// A model that answers a token of each of its two sequences in 100 ms, and has 30 and 300 to go.
    fn at_work(admission: &Arc<Admission>) -> Vec<Permit> {
        let outlook = admission.outlook("m@main");
        outlook.note_seconds_a_step(0.1);
        let work = |num_output_max| SequenceWork { num_missing: 0, num_output: 0, num_output_max };
        let left = Workload { running: vec![work(30), work(300)], waiting: vec![work(40)] };
        outlook.note_left(left, Instant::now());
        admit(admission, "m@main", &[1, 1, 1]).expect("there is room")
    }

    #[track_caller]
    fn check_wait(failure: &Failure, seconds: f64) {
        let wait = failure.retry_after.expect("a time").as_secs_f64();
        assert_eq!(failure.kind, ErrorKind::Overloaded);
        assert!((wait - seconds).abs() < 0.2, "{wait} is not {seconds}: {failure}");
    }

    #[test]
    fn who_is_refused_is_told_when_so_many_places_will_be_free() {
        let admission = Admission::new();
        let _busy = at_work(&admission);
        check_wait(&refusal(&admission, &[1]), 3.0);
        check_wait(&refusal(&admission, &[1, 1]), 7.0);
        // OpenAI's clients take no notice of more than a minute.
        admission.outlook("m@main").note_seconds_a_step(100.0);
        check_wait(&refusal(&admission, &[1]), 60.0);
        admission.outlook("m@main").stopped();
        check_wait(&refusal(&admission, &[1]), 5.0);
    }

    #[test]
    fn a_request_is_not_let_in_to_wait_in_vain() {
        let admission = Admission::new();
        let mut busy = at_work(&admission);
        busy.pop();
        let ask = |holder: &str, patience| {
            let share = Share { holder: holder.into(), weight: 1 };
            let patience = Some(Duration::from_secs_f64(patience));
            let asking = Asking { patience, ..asking("m@main", &share, &[1]) };
            admission.admit(asking, LIMITS)
        };
        // The first place is 3 s away.
        let failure = ask("", 1.0).err().expect("it would be in vain");
        check_wait(&failure, 2.0);
        assert!(failure.message.contains("some 3.0 s away, and the request's timeout is 1 s"), "{failure}");
        drop(ask("", 2.0).expect("it may be"));
        drop(ask("other", 2.0).expect("it may be"));
        busy.pop();
        drop(ask("", 0.1).expect("there is a free place in the batch"));
    }
}
