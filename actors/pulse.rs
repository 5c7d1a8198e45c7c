//! Telling what hangs from what is at work. What is watched counts ([`Pulse`]), the watcher looks now and then whether the
//! count still goes on ([`Watched`]), and time is what passed between its looks ([`WatchClock`]).
//!
//! Pure but for the clock. A process that the system stops for a while (a debugger, a paused machine) is not taken for one
//! that hangs: the watcher stood still too, and what passed then does not count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts when something begins and when it ends: odd while it is at work.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// Something begins; it ends when the answer is dropped.
    pub fn beat(&self) -> Beat<'_> {
        self.begin();
        Beat(self)
    }

    /// Something begins that ends elsewhere. If something was under way, this is the next.
    pub fn begin(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + 1 + before % 2, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn end(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + before % 2, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that is under way.
pub struct Beat<'a>(&'a Pulse);

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a watcher knows of one pulse.
#[derive(Debug, Default)]
pub struct Watched {
    number: u64,
    busy_for: Duration,
}

impl Watched {
    /// Looks at the pulse; so much time has passed since the last look. Answers for how long the same thing has been under
    /// way at least, if something is.
    pub fn look(&mut self, pulse: &Pulse, elapsed: Duration) -> Option<Duration> {
        let number = pulse.read();
        let is_same = std::mem::replace(&mut self.number, number) == number;
        if number.is_multiple_of(2) {
            return None;
        }
        self.busy_for = if is_same { self.busy_for + elapsed } else { Duration::ZERO };
        Some(self.busy_for)
    }
}

/// Time between two looks of a watcher.
#[derive(Debug)]
pub struct WatchClock {
    last: Instant,
}

impl WatchClock {
    /// Begins now.
    pub fn new() -> Self {
        Self { last: Instant::now() }
    }

    /// How much time has passed since the last look, of which twice the period counts at most.
    pub fn tick(&mut self, period: Duration) -> Duration {
        self.tick_at(Instant::now(), period)
    }

    fn tick_at(&mut self, now: Instant, period: Duration) -> Duration {
        let last = std::mem::replace(&mut self.last, now);
        now.saturating_duration_since(last).min(period * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_goes_on_for_long_grows_old() {
        let (pulse, mut watched) = (Pulse::default(), Watched::default());
        assert_eq!(watched.look(&pulse, SECOND), None, "nothing was begun");
        let beat = pulse.beat();
        assert_eq!(watched.look(&pulse, SECOND), Some(Duration::ZERO), "it may have begun just now");
        assert_eq!(watched.look(&pulse, SECOND), Some(SECOND));
        drop(beat);
        let _next = pulse.beat();
        assert_eq!(watched.look(&pulse, SECOND), Some(Duration::ZERO), "another one");
        assert_eq!(watched.look(&pulse, SECOND), Some(SECOND));
    }

    #[test]
    fn what_is_begun_anew_and_ended_twice_is_told_apart() {
        let (pulse, mut watched) = (Pulse::default(), Watched::default());
        pulse.begin();
        watched.look(&pulse, SECOND);
        pulse.begin();
        assert_eq!(watched.look(&pulse, SECOND), Some(Duration::ZERO));
        pulse.end();
        pulse.end();
        assert_eq!(watched.look(&pulse, SECOND), None);
    }

    #[test]
    fn a_watcher_that_stood_still_counts_no_more_than_two_periods() {
        let mut clock = WatchClock::new();
        let start = clock.last;
        assert_eq!(clock.tick_at(start + SECOND, SECOND), SECOND);
        assert_eq!(clock.tick_at(start + SECOND * 100, SECOND), SECOND * 2);
    }
}
