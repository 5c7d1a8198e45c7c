//! When to restart what crashed, after how long, and when to give up. Pure: the clock is handed in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many restarts within how long are bearable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Most restarts within `window`; the crash after that is the last.
    pub max_restarts: usize,
    /// How long a restart counts.
    pub window: Duration,
}

/// What to do after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after this long.
    Restart {
        /// How long to wait first; zero for the first crash of a window.
        after: Duration,
    },
    /// It would only crash again.
    GiveUp,
}

/// The crashes that still count.
#[derive(Debug, Default)]
pub struct RestartLog {
    crashes: VecDeque<Instant>,
}

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl RestartLog {
    /// It has crashed.
    pub fn crashed(&mut self, now: Instant, policy: RestartPolicy) -> Verdict {
        while self.crashes.front().is_some_and(|&crash| now.duration_since(crash) >= policy.window) {
            self.crashes.pop_front();
        }
        self.crashes.push_back(now);
        match self.crashes.len() {
            num_crashes if num_crashes > policy.max_restarts => Verdict::GiveUp,
            num_crashes => Verdict::Restart { after: backoff(num_crashes) },
        }
    }
}

/// The first restart is at once, since streams are waiting; then the pause doubles.
fn backoff(num_crashes: usize) -> Duration {
    match num_crashes {
        0 | 1 => Duration::ZERO,
        _ => BACKOFF_MIN.saturating_mul(1 << (num_crashes - 2).min(16)).min(BACKOFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy { max_restarts: 3, window: Duration::from_secs(60) };

    #[test]
    fn restarts_come_at_once_then_slower_then_not_at_all() {
        let (mut log, now) = (RestartLog::default(), Instant::now());
        let verdicts = (0..4).map(|_| log.crashed(now, POLICY)).collect::<Vec<_>>();
        let restart = |after_ms| Verdict::Restart { after: Duration::from_millis(after_ms) };
        assert_eq!(verdicts, [restart(0), restart(50), restart(100), Verdict::GiveUp]);
    }

    #[test]
    fn old_crashes_are_forgotten() {
        let (mut log, now) = (RestartLog::default(), Instant::now());
        for num_windows in 0..10 {
            let verdict = log.crashed(now + POLICY.window * num_windows, POLICY);
            assert_eq!(verdict, Verdict::Restart { after: Duration::ZERO });
        }
    }

    #[test]
    fn with_no_restarts_allowed_the_first_crash_is_the_last() {
        let mut log = RestartLog::default();
        assert_eq!(log.crashed(Instant::now(), RestartPolicy { max_restarts: 0, ..POLICY }), Verdict::GiveUp);
    }

    #[test]
    fn the_pause_has_a_bound() {
        assert_eq!(backoff(1000), BACKOFF_MAX);
    }
}
