//! How long steps take, by how many tokens they compute: learned from the steps themselves, so that it is true of this
//! model on this machine under the load of this minute.
//!
//! Times are averaged within ranges that double, the latest counting most, and read off between them along straight
//! lines: a step has a fixed part (the weights are read once) and a part that grows with its tokens, but by how much
//! depends on which of the two is the bottleneck at that size.

use std::time::Duration;

/// Step sizes are told apart by their number of binary digits.
const NUM_RANGES: usize = usize::BITS as usize;

/// How much the latest time counts.
const WEIGHT: f64 = 0.25;

/// By how much a step may grow for the sake of prompts, whatever is wished: they are never to starve.
const GROWTH_MIN: f64 = 1.25;

/// Steps of one range alone in which it is tried what more tokens take.
const NUM_TRIES_MAX: usize = 16;

/// What a guess brings must be so many times what it takes. Times are not exact, and a sequence that ends early leaves a
/// smaller batch, whose tokens take longer: where arithmetic is the bottleneck, even guesses that are right bring nothing.
const GAIN_MIN: f64 = 1.5;

/// What is known of the time of steps.
#[derive(Debug)]
pub struct Pace {
    ranges: [Option<Mean>; NUM_RANGES],
    num_steps: usize,
}

/// The steps of one range: their mean size and time.
#[derive(Debug, Clone, Copy)]
struct Mean {
    num_tokens: f64,
    seconds: f64,
}

impl Pace {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { ranges: [None; NUM_RANGES], num_steps: 0 }
    }

    /// A step of so many tokens took so long.
    pub fn note(&mut self, num_tokens: usize, elapsed: Duration) {
        let Some(range) = num_tokens.checked_ilog2() else { return };
        let (num_tokens, seconds) = (num_tokens as f64, elapsed.as_secs_f64());
        self.num_steps += 1;
        let mean = self.ranges[range as usize].get_or_insert(Mean { num_tokens, seconds });
        mean.num_tokens += WEIGHT * (num_tokens - mean.num_tokens);
        mean.seconds += WEIGHT * (seconds - mean.seconds);
    }

    /// How many tokens of prompts may be computed beside so many that decode, so that the step takes no longer than this:
    /// at most `num_max`, and at least one. `num_max` while nothing is known.
    pub fn num_beside(&self, num_decoding: usize, elapsed_max: Duration, num_max: usize) -> usize {
        let Some(alone) = self.seconds(num_decoding) else { return num_max };
        let seconds_max = elapsed_max.as_secs_f64().max(alone * GROWTH_MIN);
        let fits =
            |num: usize| self.seconds(num_decoding + num).is_some_and(|seconds| seconds <= seconds_max);
        // Times never fall with the number of tokens.
        let (mut fitting, mut too_many) = (1, num_max + 1);
        while too_many - fitting > 1 {
            let middle = fitting + (too_many - fitting) / 2;
            if fits(middle) { fitting = middle } else { too_many = middle }
        }
        fitting.min(num_max)
    }

    /// Whether one more token is worth computing in a step of `num_tokens`, if this is the chance that it saves a step to
    /// one of `num_decoding` sequences: it must bring more for its time than they do without it. While too little is known
    /// it is in the first few steps, for as many as there are sequences, so that more becomes known for little; and never in
    /// a step of more than twice the tokens of any that is known.
    pub fn pays(&self, chance: f64, num_tokens: usize, num_decoding: usize) -> bool {
        if !self.tells_sizes_apart() {
            return num_tokens < 2 * num_decoding && self.is_young();
        }
        if num_tokens >= self.num_tokens_max() {
            return false;
        }
        let seconds = |num_tokens| self.seconds(num_tokens).unwrap_or_default();
        let price = seconds(num_tokens + 1) - seconds(num_tokens);
        Self::is_gain(chance * seconds(num_decoding), price * num_decoding as f64)
    }

    /// Whether what more tokens bring is worth what they take, both in seconds.
    pub fn is_gain(brings: f64, takes: f64) -> bool {
        brings > GAIN_MIN * takes
    }

    /// Whether it is known what more tokens in a step cost.
    pub fn tells_sizes_apart(&self) -> bool {
        self.ranges.iter().flatten().count() >= 2
    }

    /// Whether so few steps are known that more may be tried.
    pub fn is_young(&self) -> bool {
        self.num_steps < NUM_TRIES_MAX
    }

    /// From so many tokens on, nothing that is known tells how long a step takes.
    pub fn num_tokens_max(&self) -> usize {
        self.ranges.iter().flatten().last().map_or(0, |mean| (2.0 * mean.num_tokens).ceil() as usize)
    }

    /// How long a step of so many tokens takes; `None` while nothing is known.
    pub fn seconds(&self, num_tokens: usize) -> Option<f64> {
        let num_tokens = num_tokens as f64;
        let mut slowest = 0.0f64;
        let (mut below, mut above) = (None, None);
        for mean in self.ranges.iter().flatten() {
            // More tokens take no less time: where it seems so, something else was slow.
            slowest = slowest.max(mean.seconds);
            (below, above) = (above, Some(Mean { seconds: slowest, ..*mean }));
            if below.is_some() && mean.num_tokens >= num_tokens {
                break;
            }
        }
        match (below, above) {
            (Some(a), Some(b)) => {
                let slope = (b.seconds - a.seconds) / (b.num_tokens - a.num_tokens);
                Some((a.seconds + slope * (num_tokens - a.num_tokens)).max(0.0))
            }
            // All of it may be the part that grows.
            (_, only) => only.map(|only| only.seconds * num_tokens / only.num_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose steps take 20 ms and 1 ms for each token.
    fn learned(sizes: &[usize]) -> Pace {
        let mut pace = Pace::new();
        for &num_tokens in sizes {
            pace.note(num_tokens, time(num_tokens));
        }
        pace
    }

    fn time(num_tokens: usize) -> Duration {
        Duration::from_millis(20 + num_tokens as u64)
    }

    /// Sums of times are not exact.
    fn just_over(milliseconds: u64) -> Duration {
        Duration::from_micros(milliseconds * 1000 + 1)
    }

    #[test]
    fn prompts_get_what_the_wished_latency_leaves() {
        let pace = learned(&[1, 256]);
        assert_eq!(pace.num_beside(4, just_over(124), 512), 100);
        assert_eq!(pace.num_beside(4, just_over(124), 50), 50, "no more than the step has");
        assert_eq!(pace.num_beside(1, time(5000), 512), 512);
    }

    #[test]
    fn prompts_never_starve() {
        let pace = learned(&[1, 256]);
        // Decoding alone takes 60 ms: a quarter more is theirs.
        assert_eq!(pace.num_beside(40, Duration::from_millis(10), 512), 15);
        assert_eq!(pace.num_beside(1, Duration::from_millis(1), 512), 5);
        let mut steep = Pace::new();
        steep.note(1, Duration::from_millis(1));
        steep.note(2, Duration::from_secs(10));
        assert_eq!(steep.num_beside(1, Duration::from_millis(1), 512), 1);
    }

    #[test]
    fn what_is_not_known_is_tried() {
        assert_eq!(Pace::new().num_beside(1, Duration::from_millis(1), 512), 512);
        assert!(Pace::new().pays(0.5, 1, 1) && Pace::new().pays(0.5, 63, 32));
        assert!(!Pace::new().pays(0.9, 2, 1), "one guess is enough to learn from");
        assert!(!learned(&[32; 16]).pays(0.9, 32, 32), "it was tried for long enough");
        // Only decoding has been seen: all of it might grow with the tokens.
        assert_eq!(learned(&[1]).num_beside(1, just_over(210), 512), 9);
    }

    #[test]
    fn it_follows_a_machine_that_becomes_slower() {
        let mut pace = learned(&[1, 256]);
        for num_tokens in [1, 256].repeat(30) {
            pace.note(num_tokens, time(num_tokens) * 2);
        }
        // (124 - 40) / 2, less the four.
        assert!((37..=38).contains(&pace.num_beside(4, just_over(124), 512)));
    }

    #[test]
    fn a_slow_moment_makes_no_slope_negative() {
        let mut pace = learned(&[1, 256]);
        pace.note(4, Duration::from_secs(3));
        assert!(!pace.pays(0.0, 4, 1), "what is never right does not pay");
        assert!(pace.num_beside(1, Duration::from_millis(100), 512) >= 1);
    }

    #[test]
    fn a_guess_pays_where_weights_are_the_bottleneck_and_not_where_arithmetic_is() {
        let pace = learned(&[1, 8, 64, 512]);
        // One sequence alone: 21 ms a token, so 1 ms is well spent on a chance of one in ten.
        assert!(pace.pays(0.1, 1, 1) && !pace.pays(0.05, 1, 1));
        // Twenty of them: 40 ms for 20 tokens, 2 ms each.
        assert!(pace.pays(0.8, 20, 20) && !pace.pays(0.7, 20, 20));
        // Sixty: 1.33 ms each, which a step of 1 ms hardly saves.
        assert!(!pace.pays(1.0, 60, 60));
        // What takes so little for a few is not taken to for many.
        let small = learned(&[1, 2]);
        assert!(small.pays(0.9, 3, 1) && !small.pays(0.9, 4, 1));
        // Nothing but arithmetic: a guess costs what a token costs.
        let mut arithmetic = Pace::new();
        [1, 8, 64].iter().for_each(|&num| arithmetic.note(num, Duration::from_millis(num as u64)));
        assert!(!arithmetic.pays(0.99, 8, 8));
    }
}
