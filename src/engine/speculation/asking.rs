//! Whether a draft model is asked, and for how much.
//!
//! Asking takes time whether or not it is right: a step of the draft model for each token, of all sequences together. So as many
//! tokens are asked for as bring the most tokens a second, by what steps of both models take and how often guesses were right.
//! Where none do, a little is asked now and then, so that it is noticed when that changes.

use std::time::Duration;

use super::Drafts;
use crate::pace::Pace;

/// While too little is known of times, so much is asked for.
const NUM_TRIED: usize = 1;

/// Where asking does not pay, steps take so many times as long as what is asked all the same.
const PATIENCE: f64 = 100.0;

/// A sequence that a draft model could be asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// That a token of it is right, if those before it are.
    pub chance: f64,
    /// Most tokens that are of use.
    pub num_max: usize,
}

/// What is known of a draft model's times.
#[derive(Debug)]
pub(crate) struct Asking {
    pace: Pace,
    /// Seconds of steps since it was last asked.
    seconds_since: f64,
    /// Seconds that it took then.
    seconds_last: f64,
}

impl Asking {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { pace: Pace::new(), seconds_since: 0.0, seconds_last: 0.0 }
    }

    /// Its times, by the tokens of its steps.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// A step of the large model took so long.
    pub fn note_step(&mut self, elapsed: Duration) {
        self.seconds_since += elapsed.as_secs_f64();
    }

    /// It was asked.
    pub fn note(&mut self, drafts: &Drafts) {
        drafts.steps.iter().for_each(|&(num_tokens, elapsed)| self.pace.note(num_tokens, elapsed));
        self.seconds_last = drafts.steps.iter().map(|(_, elapsed)| elapsed.as_secs_f64()).sum();
        self.seconds_since = 0.0;
    }

    /// About how many of the candidates it is asked, the first of them, and for how many tokens of each; `steps` tells how long
    /// the large model takes, for `num_decoding` sequences in all.
    pub fn how_much(&self, candidates: &[Candidate], steps: &Pace, num_decoding: usize) -> (usize, usize) {
        let num_max = candidates.iter().map(|candidate| candidate.num_max).max().unwrap_or_default();
        if num_max == 0 {
            return (0, 0);
        }
        let num_tokens = self.best(candidates, num_max, steps, num_decoding);
        if num_tokens > 0 {
            return (candidates.len(), num_tokens);
        }
        let is_due = self.seconds_last > 0.0 && self.seconds_since >= self.seconds_last * PATIENCE;
        (usize::from(is_due), usize::from(is_due))
    }

    /// How many tokens of each bring the most tokens a second.
    fn best(&self, candidates: &[Candidate], num_max: usize, steps: &Pace, num_decoding: usize) -> usize {
        // What it is compared with comes first.
        let Some(alone) = steps.seconds(num_decoding) else { return 0 };
        if !steps.tells_sizes_apart() {
            return if steps.is_young() { NUM_TRIED.min(num_max) } else { 0 };
        }
        let Some(asked) = self.pace.seconds(candidates.len()) else { return NUM_TRIED.min(num_max) };
        let (mut num_more, mut num_computed) = (0.0, num_decoding);
        let (mut best, mut rate_max) = (0, num_decoding as f64 / alone);
        for num in 1..=num_max {
            for candidate in candidates.iter().filter(|candidate| candidate.num_max >= num) {
                num_more += candidate.chance.powi(num as i32);
                num_computed += 1;
            }
            if num_computed > steps.num_tokens_max() {
                break;
            }
            let step = steps.seconds(num_computed).unwrap_or(alone).max(alone) + asked * num as f64;
            let rate = (num_decoding as f64 + num_more) / step;
            let brings = alone * num_more / num_decoding as f64;
            if rate > rate_max && Pace::is_gain(brings, step - alone) {
                (best, rate_max) = (num, rate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 20 ms and 1 ms for each token.
    fn steps() -> Pace {
        let mut pace = Pace::new();
        [1usize, 8, 64].iter().for_each(|&num| pace.note(num, Duration::from_millis(20 + num as u64)));
        pace
    }

    /// A draft model whose steps take so long, whatever they hold.
    fn asking(milliseconds: u64) -> Asking {
        let mut asking = Asking::new();
        let steps = [1, 8, 64].map(|num| (num, Duration::from_millis(milliseconds)));
        asking.note(&Drafts { steps: steps.into(), ..Drafts::default() });
        asking
    }

    fn sure_of(chance: f64, num: usize) -> Vec<Candidate> {
        vec![Candidate { chance, num_max: 16 }; num]
    }

    #[test]
    fn more_is_asked_of_who_is_right_and_quick() {
        let num = |chance, milliseconds| asking(milliseconds).how_much(&sure_of(chance, 1), &steps(), 1).1;
        assert_eq!(num(1.0, 1), 16);
        assert!(num(0.8, 2) < num(0.9, 2) && num(0.8, 2) > 1);
        assert!(num(0.8, 4) < num(0.8, 2));
        assert_eq!(num(0.1, 4), 0);
        assert_eq!(num(1.0, 30), 0, "slower than what it guesses at");
    }

    #[test]
    fn a_batch_shares_the_time_of_asking() {
        let draft = asking(6);
        assert_eq!(draft.how_much(&sure_of(0.4, 1), &steps(), 1), (0, 0));
        let (num_asked, num_tokens) = draft.how_much(&sure_of(0.9, 4), &steps(), 4);
        assert!(num_asked == 4 && num_tokens > 0, "{num_asked} {num_tokens}");
    }

    #[test]
    fn what_is_not_known_is_tried() {
        assert_eq!(Asking::new().how_much(&sure_of(0.1, 3), &steps(), 3), (3, 1));
        let mut plain = Pace::new();
        assert_eq!(
            asking(1).how_much(&sure_of(0.9, 3), &plain, 3),
            (0, 0),
            "first it is seen how long a step takes"
        );
        plain.note(3, Duration::from_millis(20));
        assert_eq!(asking(1).how_much(&sure_of(0.1, 3), &plain, 3), (3, 1));
        (0..20).for_each(|_| plain.note(3, Duration::from_millis(20)));
        assert_eq!(asking(1).how_much(&sure_of(0.1, 3), &plain, 3), (0, 0), "it was tried for long enough");
        let nearly_done = [Candidate { chance: 1.0, num_max: 1 }];
        assert_eq!(Asking::new().how_much(&nearly_done, &steps(), 1), (1, 1));
        assert_eq!(asking(1).how_much(&[], &steps(), 3), (0, 0));
    }

    #[test]
    fn who_is_of_no_use_is_asked_now_and_then() {
        let mut draft = asking(4);
        let candidates = sure_of(0.01, 3);
        let mut num_asked = 0;
        for _ in 0..1000 {
            draft.note_step(Duration::from_millis(20));
            if draft.how_much(&candidates, &steps(), 3) == (1, 1) {
                num_asked += 1;
                draft.note(&Drafts { steps: vec![(30, Duration::from_millis(4))], ..Drafts::default() });
            }
        }
        // A hundredth of twenty seconds.
        assert!((40..=50).contains(&num_asked), "{num_asked} times 4 ms");
    }
}
