//! How long a step may take before it is taken to hang: learned from the steps that were. Pure.

use std::time::Duration;

/// A step that takes so many times what the slowest of its size took is lost.
const PATIENCE: u32 = 10;
/// Before anything is measured: multiply-adds per second of a machine that is slow beyond doubt.
const SLOWEST_RATE: u64 = 5_000_000_000;
/// Sizes are powers of two.
const NUM_SIZES: usize = usize::BITS as usize;

/// The slowest steps by size, in tokens. One slow step is forgotten over some hundred quicker ones.
#[derive(Debug)]
pub struct StepTimes {
    slowest: [Option<Duration>; NUM_SIZES],
    num_parameters: u64,
}

impl StepTimes {
    /// Nothing is measured yet of a model with so many parameters.
    pub fn new(num_parameters: u64) -> Self {
        Self { slowest: [None; NUM_SIZES], num_parameters }
    }

    /// A step of so many tokens took so long.
    pub fn observe(&mut self, num_tokens: usize, took: Duration) {
        let slowest = &mut self.slowest[size(num_tokens)];
        *slowest = Some(slowest.map_or(took, |slowest| took.max(slowest * 99 / 100)));
    }

    /// How long a step of so many tokens may take; at least `floor`.
    pub fn deadline(&self, num_tokens: usize, floor: Duration) -> Duration {
        floor.max(self.expected(num_tokens).saturating_mul(PATIENCE))
    }

    /// By the nearest size that was measured: a smaller one grows with the tokens, a larger one is enough as it is.
    fn expected(&self, num_tokens: usize) -> Duration {
        let asked = size(num_tokens);
        let smaller = self.slowest[..=asked].iter().rposition(Option::is_some);
        if let Some((smaller, time)) = smaller.and_then(|at| Some((at, self.slowest[at]?))) {
            return time.saturating_mul(1_u32.checked_shl((asked - smaller) as u32).unwrap_or(u32::MAX));
        }
        let larger = self.slowest[asked..].iter().flatten().next();
        larger.copied().unwrap_or_else(|| {
            Duration::from_millis(
                self.num_parameters.saturating_mul(num_tokens as u64) / (SLOWEST_RATE / 1000),
            )
        })
    }
}

fn size(num_tokens: usize) -> usize {
    num_tokens.max(1).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_secs(30);
    const BILLION: u64 = 1_000_000_000;

    #[test]
    fn quick_steps_have_the_floor() {
        let mut times = StepTimes::new(BILLION / 1000);
        assert_eq!(times.deadline(1, FLOOR), FLOOR);
        times.observe(1, Duration::from_millis(3));
        assert_eq!(times.deadline(1, FLOOR), FLOOR);
    }

    #[test]
    fn slow_steps_have_ten_times_what_they_took_in_proportion_to_their_tokens() {
        let mut times = StepTimes::new(BILLION);
        times.observe(1, Duration::from_secs(4));
        assert_eq!(times.deadline(1, FLOOR), Duration::from_secs(40));
        assert_eq!(times.deadline(512, FLOOR), Duration::from_secs(40 * 512));
        times.observe(512, Duration::from_secs(60));
        assert_eq!(times.deadline(600, FLOOR), Duration::from_secs(600), "the nearest size that is known");
        assert_eq!(times.deadline(1 << 20, FLOOR), Duration::from_secs(600 << 11));
    }

    #[test]
    fn a_large_model_has_time_before_anything_is_known_of_it() {
        let times = StepTimes::new(70 * BILLION);
        assert!(times.deadline(512, FLOOR) > Duration::from_secs(3600));
    }

    #[test]
    fn one_slow_step_is_forgotten() {
        let mut times = StepTimes::new(BILLION);
        times.observe(8, Duration::from_secs(60));
        assert_eq!(times.deadline(8, FLOOR), Duration::from_secs(600));
        (0..500).for_each(|_| times.observe(8, Duration::from_millis(20)));
        assert_eq!(times.deadline(8, FLOOR), FLOOR);
    }
}
