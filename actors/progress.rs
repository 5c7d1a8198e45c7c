//! How far a load is, for those who watch it: what has passed is replayed to those who come late. Pure.

use std::time::Duration;

use candlewick_protocol::{LoadEvent, LoadStage, Progress};
use tokio::time::Instant;

/// One stage of a load and how far it has come.
pub type StageProgress = (LoadStage, Option<Progress>);

/// The stages of a load so far, each at its latest value.
#[derive(Debug, Clone, Default)]
pub struct LoadProgress {
    stages: Vec<StageProgress>,
}

impl LoadProgress {
    /// The load has come this far. `false` if that is not beyond what was known, and not worth telling.
    pub fn advance(&mut self, (stage, progress): StageProgress) -> bool {
        match self.stages.last_mut() {
            Some((latest, _)) if *latest > stage => false,
            Some((latest, value)) if *latest == stage => {
                let is_news = *value != progress;
                *value = progress;
                is_news
            }
            _ => {
                self.stages.push((stage, progress));
                true
            }
        }
    }

    /// What a late subscriber is told first: each stage once, at its latest value.
    pub fn replay(&self) -> &[StageProgress] {
        &self.stages
    }
}

/// Stage and progress as an event of `/load_model`.
pub fn loading(model: &str, (stage, progress): StageProgress) -> LoadEvent {
    LoadEvent::Loading { model: model.into(), stage, progress }
}

/// Thins out progress: the first and the last of a stage always pass, the others about ten times a second.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
}

const INTERVAL: Duration = Duration::from_millis(100);

/// So few steps are all told, however fast they come.
const FEW_STEPS: u64 = 512;

impl Throttle {
    /// Whether this progress is told.
    pub fn passes(&mut self, now: Instant, progress: Progress) -> bool {
        let is_edge = self.last.is_none() || progress.total == Some(progress.current);
        let is_few = progress.total.is_some_and(|total| total <= FEW_STEPS);
        let passes = is_edge || is_few || self.last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if passes {
            self.last = Some(now);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use candlewick_protocol::ProgressUnit;

    use super::*;

    fn bytes(current: u64, total: u64) -> Progress {
        Progress { current, total: Some(total), unit: ProgressUnit::Bytes }
    }

    #[test]
    fn a_late_subscriber_gets_each_stage_once_at_its_latest_value() {
        let mut progress = LoadProgress::default();
        let told = [
            (LoadStage::Processor, None),
            (LoadStage::Config, None),
            (LoadStage::Download, Some(bytes(1, 9))),
            (LoadStage::Download, Some(bytes(9, 9))),
        ];
        for stage in told {
            assert!(progress.advance(stage));
        }
        assert!(!progress.advance((LoadStage::Config, None)), "a load does not go back");
        assert!(!progress.advance(told[3]), "nothing is told twice");
        assert_eq!(progress.replay(), [told[0], told[1], told[3]]);
    }

    #[test]
    fn the_first_and_the_last_always_pass() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let passed =
            (0..=100_000).filter(|&done| throttle.passes(now, bytes(done, 100_000))).collect::<Vec<_>>();
        assert_eq!(passed, [0, 100_000]);
        assert!(throttle.passes(now + INTERVAL, bytes(5, 100_000)));
    }

    #[test]
    fn a_few_steps_are_all_told() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!((1..=300).filter(|&done| throttle.passes(now, bytes(done, 300))).count(), 300);
    }
}
