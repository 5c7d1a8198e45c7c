//! How long until there is a place: foretold from what is yet to be computed and from how quickly the model has computed of late.
//!
//! The batcher tells what each step took and what is left to do after it, requests tell how long answers become, and the door
//! asks. Nothing is known of a model that has not run yet, and of one that is not running at the moment.
//!
//! What is foretold is a schedule: sequences that run end when their rest is computed, each place that they leave is taken by
//! the next who waits. Three things are learned for it, by the latest seconds most: what a step takes in which answers go
//! on, what a token of a prompt takes, and how long answers become. Of the last there are two kinds: those that the limit of their
//! request cut, which become as long as the limit, and those that ended by themselves, whose mean length is kept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candlewick_engine::{SequenceWork, StepOutcome, StepPlan, Workload};
use candlewick_protocol::FinishReason;

/// What happened this long ago counts a third of what happens now.
const WINDOW: Duration = Duration::from_secs(10);

/// How much the latest answer counts, of those that tell how long answers become.
const ANSWER_WEIGHT: f64 = 1.0 / 16.0;

/// What is known of one model.
#[derive(Default)]
pub struct Outlook(Mutex<Known>);

#[derive(Default)]
struct Known {
    speeds: Speeds,
    answers: Answers,
    /// What is left to do, and since when; `None` while no batcher is at work.
    left: Option<(Workload, Instant)>,
}

impl Outlook {
    /// A step took so long.
    pub fn note_step(&self, plan: &StepPlan, outcome: &StepOutcome, elapsed: Duration) {
        self.known().speeds.note(StepShape::of(plan, outcome), elapsed);
    }

    /// An answer has become so long.
    pub fn note_answer(&self, num_prompt_tokens: usize, num_tokens: usize, end: FinishReason) {
        self.known().answers.note(num_prompt_tokens, num_tokens, end == FinishReason::Length);
    }

    /// What is left to do now.
    pub fn note_left(&self, left: Workload, now: Instant) {
        self.known().left = Some((left, now));
    }

    /// No batcher is at work any more.
    pub fn stopped(&self) {
        self.known().left = None;
    }

    /// When so many of the sequences that are in flight will have ended, if the model can be foretold. Those of whom its
    /// batcher has not heard yet are taken to be as others were.
    pub fn until_ended(
        &self,
        num_ended: usize,
        num_in_flight: usize,
        max_running: usize,
        now: Instant,
    ) -> Option<Duration> {
        let known = self.known();
        let (left, since) = known.left.as_ref()?;
        let seconds = |work: &SequenceWork| {
            known.speeds.seconds(work.num_missing as f64, known.answers.expected_rest(work))
        };
        let running = left.running.iter().map(seconds).collect::<Option<Vec<f64>>>()?;
        let mut waiting = left.waiting.iter().map(seconds).collect::<Option<Vec<f64>>>()?;
        let num_unheard = num_in_flight.saturating_sub(running.len() + waiting.len());
        let usual = known.speeds.seconds(known.answers.num_prompt_tokens, known.answers.num_tokens())?;
        waiting.extend(std::iter::repeat_n(usual, num_unheard));
        let until = nth_end(&running, &waiting, num_ended, max_running);
        let age = now.saturating_duration_since(*since);
        // What would be too long to be told is told as very long.
        let until = Duration::try_from_secs_f64(until).unwrap_or(Duration::from_secs(1 << 32));
        Some(until.saturating_sub(age))
    }

    /// As if steps in which answers go on had always taken so long.
    #[cfg(test)]
    pub fn note_seconds_a_step(&self, seconds: f64) {
        let mut known = self.known();
        known.speeds = Speeds::default();
        let shape = StepShape { num_prompt_tokens: 0, num_answering: 1, num_sampled: 1 };
        known.speeds.note(shape, Duration::from_secs_f64(seconds));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the sequence of this number ends, counted from one, if those that wait take the places of those that end.
fn nth_end(running: &[f64], waiting: &[f64], number: usize, max_running: usize) -> f64 {
    // Nanoseconds, since seconds have no order.
    let nanos = |seconds: f64| (seconds * 1e9) as u128;
    let mut ends: BinaryHeap<Reverse<u128>> =
        running.iter().map(|&seconds| Reverse(nanos(seconds))).collect();
    let mut waiting = waiting.iter().map(|&seconds| nanos(seconds));
    let num_free = max_running.saturating_sub(ends.len());
    ends.extend(waiting.by_ref().take(num_free).map(Reverse));
    let mut now = 0;
    for _ in 0..number.max(1) {
        let Some(Reverse(end)) = ends.pop() else { break };
        now = end;
        ends.extend(waiting.next().map(|takes| Reverse(now + takes)));
    }
    now as f64 / 1e9
}

/// What a step had in it.
#[derive(Debug, Clone, Copy, Default)]
struct StepShape {
    num_prompt_tokens: usize,
    /// Sequences whose answers went on.
    num_answering: usize,
    /// By so many tokens.
    num_sampled: usize,
}

impl StepShape {
    fn of(plan: &StepPlan, outcome: &StepOutcome) -> Self {
        let mut shape = Self::default();
        for (chunk, sampled) in plan.chunks.iter().zip(&outcome.sampled) {
            let num_known = chunk.token_ids.len() - chunk.draft().len();
            if num_known == 1 && !chunk.samples.is_empty() {
                shape.num_answering += 1;
                shape.num_sampled += sampled.len();
            } else {
                shape.num_prompt_tokens += num_known;
            }
        }
        shape
    }
}

/// Sums over the latest steps, of which older ones count less.
#[derive(Debug, Default)]
struct Speeds {
    steps: Sum,
    /// Steps in which answers went on.
    answering_steps: Sum,
    /// Steps with prompts, counted by their tokens.
    prompts: Sum,
    num_answering: f64,
    num_sampled: f64,
}

#[derive(Debug, Default)]
struct Sum {
    count: f64,
    seconds: f64,
}

impl Sum {
    fn note(&mut self, kept: f64, count: usize, seconds: f64) {
        let seconds = if count == 0 { 0.0 } else { seconds };
        self.count = self.count * kept + count as f64;
        self.seconds = self.seconds * kept + seconds;
    }

    fn each(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.seconds / self.count)
    }
}

impl Speeds {
    fn note(&mut self, shape: StepShape, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let kept = (-seconds / WINDOW.as_secs_f64()).exp();
        self.steps.note(kept, 1, seconds);
        self.answering_steps.note(kept, usize::from(shape.num_answering > 0), seconds);
        self.prompts.note(kept, shape.num_prompt_tokens, seconds);
        self.num_answering = self.num_answering * kept + shape.num_answering as f64;
        self.num_sampled = self.num_sampled * kept + shape.num_sampled as f64;
    }

    /// How long so many tokens of a prompt and so many of an answer take, beside what else there is to do.
    fn seconds(&self, num_prompt_tokens: f64, num_tokens: f64) -> Option<f64> {
        let step = self.answering_steps.each().or(self.steps.each())?;
        let num_a_step = if self.num_answering > 0.0 { self.num_sampled / self.num_answering } else { 1.0 };
        let prompt = self.prompts.each().unwrap_or_default() * num_prompt_tokens;
        Some(prompt + step * num_tokens / num_a_step.max(1.0))
    }
}

/// How long answers become.
#[derive(Debug, Default)]
struct Answers {
    num_known: u64,
    /// The part of them that their limit cut.
    part_cut: f64,
    /// Mean length of those that were.
    num_tokens_cut: f64,
    /// Mean length of those that ended by themselves.
    num_tokens_ended: f64,
    num_prompt_tokens: f64,
}

impl Answers {
    fn note(&mut self, num_prompt_tokens: usize, num_tokens: usize, is_cut: bool) {
        self.num_known += 1;
        // The first ones are averaged.
        let weight = ANSWER_WEIGHT.max(1.0 / self.num_known as f64);
        let follow = |mean: &mut f64, value: f64| {
            *mean = if *mean == 0.0 { value } else { *mean + weight * (value - *mean) };
        };
        self.part_cut += weight * (f64::from(u8::from(is_cut)) - self.part_cut);
        follow(&mut self.num_prompt_tokens, num_prompt_tokens as f64);
        let mean = if is_cut { &mut self.num_tokens_cut } else { &mut self.num_tokens_ended };
        follow(mean, num_tokens as f64);
    }

    /// Mean length, of all.
    fn num_tokens(&self) -> f64 {
        self.part_cut * self.num_tokens_cut + (1.0 - self.part_cut) * self.num_tokens_ended
    }

    /// What is yet to be generated of a sequence. Nothing is known before the first answer but the limit.
    fn expected_rest(&self, work: &SequenceWork) -> f64 {
        let (max, done) = (work.num_output_max as f64, work.num_output as f64);
        if self.num_known == 0 {
            return (max - done).max(0.0);
        }
        // One that is longer than such are goes on for some time.
        let by_itself = (self.num_tokens_ended.min(max) - done).max(self.num_tokens_ended / 4.0);
        let left = (max - done).max(0.0);
        self.part_cut * left + (1.0 - self.part_cut) * by_itself.min(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that reads `prompt_tokens` a step and answers one token of each of `num_answering` in `step`.
    fn learned(step: Duration, num_prompt_tokens: usize, num_answering: usize) -> Outlook {
        let outlook = Outlook::default();
        for _ in 0..200 {
            let shape = StepShape { num_prompt_tokens, num_answering, num_sampled: num_answering };
            outlook.known().speeds.note(shape, step);
        }
        outlook
    }

    fn work(num_missing: usize, num_output: usize, num_output_max: usize) -> SequenceWork {
        SequenceWork { num_missing, num_output, num_output_max }
    }

    const STEP: Duration = Duration::from_millis(100);

    /// What is foretold of the end of the sequence of a number, in seconds.
    #[track_caller]
    fn check(outlook: &Outlook, number: usize, num_in_flight: usize, max_running: usize, expected: f64) {
        let now = outlook.known().left.as_ref().expect("there is work").1;
        let until = outlook.until_ended(number, num_in_flight, max_running, now).expect("it is known");
        assert!((until.as_secs_f64() - expected).abs() < 1e-3, "{until:?} is not {expected} s");
    }

    #[test]
    fn nothing_is_foretold_of_what_is_not_known() {
        let outlook = Outlook::default();
        let now = Instant::now();
        assert_eq!(outlook.until_ended(1, 1, 1, now), None);
        outlook.note_left(Workload { running: vec![work(1, 0, 9)], waiting: Vec::new() }, now);
        assert_eq!(outlook.until_ended(1, 1, 1, now), None, "no step was measured");
        let outlook = learned(STEP, 0, 2);
        assert_eq!(outlook.until_ended(1, 1, 1, now), None, "nobody is at work");
        outlook.note_left(Workload { running: vec![work(1, 0, 9)], waiting: Vec::new() }, now);
        assert!(outlook.until_ended(1, 1, 1, now).is_some());
        outlook.stopped();
        assert_eq!(outlook.until_ended(1, 1, 1, now), None);
    }

    #[test]
    fn places_fall_free_as_those_who_run_end_and_are_taken_by_those_who_wait() {
        let outlook = learned(STEP, 0, 2);
        let running = vec![work(1, 90, 100), work(1, 40, 100)];
        let waiting = vec![work(0, 0, 20), work(0, 0, 20)];
        outlook.note_left(Workload { running, waiting }, Instant::now());
        // Ten steps, then twenty of the first that waited, then twenty of the second, then the other that ran.
        for (number, seconds) in [(1, 1.0), (2, 3.0), (3, 5.0), (4, 6.0), (9, 6.0)] {
            check(&outlook, number, 4, 2, seconds);
        }
        check(&outlook, 1, 4, 4, 1.0);
        check(&outlook, 2, 4, 4, 2.0);
    }

    #[test]
    fn prompts_take_their_time() {
        let outlook = learned(STEP, 50, 0);
        outlook.note_left(
            Workload { running: vec![work(500, 0, 0)], waiting: vec![work(100, 0, 0)] },
            Instant::now(),
        );
        check(&outlook, 1, 2, 1, 1.0);
        check(&outlook, 2, 2, 1, 1.2);
    }

    #[test]
    fn guesses_that_are_right_save_steps() {
        let outlook = Outlook::default();
        let shape = StepShape { num_prompt_tokens: 0, num_answering: 2, num_sampled: 8 };
        outlook.known().speeds.note(shape, STEP);
        outlook.note_left(Workload { running: vec![work(1, 0, 40)], waiting: Vec::new() }, Instant::now());
        check(&outlook, 1, 1, 1, 1.0);
    }

    #[test]
    fn answers_become_as_long_as_answers_do() {
        let outlook = learned(STEP, 0, 1);
        let now = Instant::now();
        outlook.note_left(Workload { running: vec![work(1, 0, 4000)], waiting: Vec::new() }, now);
        check(&outlook, 1, 1, 1, 400.0);
        (0..100).for_each(|_| outlook.note_answer(10, 50, FinishReason::Stop));
        check(&outlook, 1, 1, 1, 5.0);
        outlook.note_left(Workload { running: vec![work(1, 49, 4000)], waiting: Vec::new() }, now);
        check(&outlook, 1, 1, 1, 1.25);
        outlook.note_left(Workload { running: vec![work(1, 0, 20)], waiting: Vec::new() }, now);
        check(&outlook, 1, 1, 1, 2.0);
        // Where limits cut all of them, limits are what counts.
        (0..300).for_each(|_| outlook.note_answer(10, 20, FinishReason::Length));
        outlook.note_left(Workload { running: vec![work(1, 0, 4000)], waiting: Vec::new() }, now);
        check(&outlook, 1, 1, 1, 400.0);
    }

    #[test]
    fn those_on_their_way_count_as_others_were() {
        let outlook = learned(STEP, 0, 1);
        outlook.note_answer(0, 30, FinishReason::Stop);
        outlook.note_left(Workload { running: vec![work(1, 0, 10)], waiting: Vec::new() }, Instant::now());
        check(&outlook, 2, 3, 1, 4.0);
        check(&outlook, 3, 3, 1, 7.0);
    }

    #[test]
    fn a_long_step_is_waited_for_only_as_long_as_it_still_takes() {
        let outlook = learned(STEP, 0, 1);
        let now = Instant::now();
        outlook.note_left(Workload { running: vec![work(1, 0, 10)], waiting: Vec::new() }, now);
        let later = now + Duration::from_millis(400);
        let until = outlook.until_ended(1, 1, 1, later).expect("it is known").as_secs_f64();
        assert!((until - 0.6).abs() < 1e-3, "{until}");
        assert_eq!(outlook.until_ended(1, 1, 1, later + STEP * 100), Some(Duration::ZERO));
    }

    #[test]
    fn it_follows_a_machine_that_becomes_slower() {
        let outlook = learned(STEP, 0, 1);
        let shape = StepShape { num_prompt_tokens: 0, num_answering: 1, num_sampled: 1 };
        // Half a minute of steps that take three times as long.
        (0..100).for_each(|_| outlook.known().speeds.note(shape, STEP * 3));
        outlook.note_left(Workload { running: vec![work(1, 0, 10)], waiting: Vec::new() }, Instant::now());
        let now = outlook.known().left.as_ref().expect("there is work").1;
        let seconds = outlook.until_ended(1, 1, 1, now).expect("it is known").as_secs_f64();
        assert!((2.7..3.0).contains(&seconds), "{seconds}");
    }
}
