//! Finding the request that crashes the batcher, and letting it crash alone.
//!
//! A request that was in a step at a crash is a suspect. Once suspected it is retried among the others; twice suspected it
//! gets steps of its own, in turn with the steps that all others share; and who crashes a step of its own is guilty. A suspect
//! that has had a token since is none any more: what a request brings about, it brings about again at the same place. Everyone goes on meanwhile: isolation costs batch width, not waiting for a whole answer.

use std::collections::HashMap;

use candlewick_protocol::RequestKey;

/// Crashes at which a request was present before it is given steps of its own.
const CRASHES_BEFORE_SOLO: u32 = 2;

/// What is held against whom. Lives in the model's supervisor, which outlives the batchers.
#[derive(Debug, Default)]
pub struct Quarantine {
    num_crashes: HashMap<RequestKey, u32>,
}

impl Quarantine {
    /// A step with these requests has crashed. Answers who is guilty, if that is clear now.
    pub fn crashed(&mut self, suspects: &[RequestKey]) -> Option<RequestKey> {
        let guilty = match suspects {
            &[alone] => Some(alone).filter(|&alone| self.is_solo(alone)),
            _ => None,
        };
        for &suspect in suspects {
            *self.num_crashes.entry(suspect).or_default() += 1;
        }
        guilty
    }

    /// Those of whom this does not hold have got past the place of the last crash.
    pub fn acquit_unless(&mut self, is_on_trial: impl Fn(RequestKey) -> bool) {
        self.num_crashes.retain(|&request, _| is_on_trial(request));
    }

    /// Whether a request was present at a crash.
    pub fn is_suspect(&self, request: RequestKey) -> bool {
        self.num_crashes.contains_key(&request)
    }

    /// Whether a request must have steps of its own.
    pub fn is_solo(&self, request: RequestKey) -> bool {
        self.num_crashes.get(&request).is_some_and(|&count| count >= CRASHES_BEFORE_SOLO)
    }

    /// The request has ended.
    pub fn forget(&mut self, request: RequestKey) {
        self.num_crashes.remove(&request);
    }
}

/// Who takes part in the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// All requests that are not in quarantine.
    Others,
    /// This one alone.
    Solo(RequestKey),
}

/// Hands out turns. Lives in the batcher.
#[derive(Debug, Default)]
pub struct Turns {
    solo: Vec<RequestKey>,
    /// Whose turn is next: an index into `solo`, or its length for the others.
    next: usize,
}

impl Turns {
    /// The request gets steps of its own from now on.
    pub fn isolate(&mut self, request: RequestKey) {
        if !self.solo.contains(&request) {
            self.solo.push(request);
        }
    }

    /// The request is gone.
    pub fn forget(&mut self, request: RequestKey) {
        self.solo.retain(|&other| other != request);
    }

    /// Whether a request takes part in a turn.
    pub fn includes(&self, turn: Turn, request: RequestKey) -> bool {
        match turn {
            Turn::Solo(alone) => request == alone,
            Turn::Others => !self.solo.contains(&request),
        }
    }

    /// Nobody is isolated: every turn is everybody's.
    pub fn is_empty(&self) -> bool {
        self.solo.is_empty()
    }

    /// The next round of turns: each isolated request once, and the others once.
    pub fn round(&self) -> usize {
        self.solo.len() + 1
    }

    /// Whose turn it is now.
    pub fn next(&mut self) -> Turn {
        let turn = self.solo.get(self.next).map_or(Turn::Others, |&request| Turn::Solo(request));
        self.next = if self.next >= self.solo.len() { 0 } else { self.next + 1 };
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: RequestKey = RequestKey(1);
    const POISON: RequestKey = RequestKey(2);

    #[test]
    fn the_guilty_one_is_found_and_only_that_one() {
        let mut quarantine = Quarantine::default();
        assert_eq!(quarantine.crashed(&[GOOD, POISON]), None);
        assert!(!quarantine.is_solo(POISON), "the first crash is forgiven");
        assert_eq!(quarantine.crashed(&[GOOD, POISON]), None);
        assert!(quarantine.is_solo(GOOD) && quarantine.is_solo(POISON));
        assert_eq!(quarantine.crashed(&[POISON]), Some(POISON));
    }

    #[test]
    fn a_lone_request_has_the_same_chances() {
        let mut quarantine = Quarantine::default();
        let verdicts = (0..3).map(|_| quarantine.crashed(&[POISON])).collect::<Vec<_>>();
        assert_eq!(verdicts, [None, None, Some(POISON)]);
    }

    #[test]
    fn who_ended_is_forgotten() {
        let mut quarantine = Quarantine::default();
        quarantine.crashed(&[GOOD]);
        quarantine.crashed(&[GOOD]);
        quarantine.forget(GOOD);
        assert!(!quarantine.is_solo(GOOD));
    }

    #[test]
    fn who_got_past_the_place_of_the_crash_is_acquitted() {
        let mut quarantine = Quarantine::default();
        quarantine.crashed(&[GOOD, POISON]);
        quarantine.acquit_unless(|request| request == POISON);
        assert!(quarantine.is_suspect(POISON) && !quarantine.is_suspect(GOOD));
        quarantine.crashed(&[GOOD, POISON]);
        assert!(quarantine.is_solo(POISON) && !quarantine.is_solo(GOOD));
    }

    #[test]
    fn turns_go_round() {
        let mut turns = Turns::default();
        assert_eq!([turns.next(), turns.next()], [Turn::Others; 2]);
        turns.isolate(POISON);
        turns.isolate(POISON);
        let round = (0..4).map(|_| turns.next()).collect::<Vec<_>>();
        assert_eq!(round, [Turn::Solo(POISON), Turn::Others, Turn::Solo(POISON), Turn::Others]);
        assert!(turns.includes(Turn::Others, GOOD) && !turns.includes(Turn::Others, POISON));
        assert!(turns.includes(Turn::Solo(POISON), POISON) && !turns.includes(Turn::Solo(POISON), GOOD));
        turns.forget(POISON);
        assert_eq!(turns.next(), Turn::Others);
    }
}
