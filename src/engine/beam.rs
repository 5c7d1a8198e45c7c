//! Beam search: of all that the best few beginnings could go on with, the best few are kept, token by token.
//!
//! The rules are those of transformers (`_beam_search`, with `early_stopping=False`): a step considers the best
//! continuations over all beams; one that ends is kept if it is among the first `width` of them, by its summed
//! log-probability over its length to the power of `length_penalty`; the search is over once the best beam that still
//! runs, taken at its present length, is no better than the worst of `width` that have ended. Of equals the earlier beam
//! and then the lower token id comes first.
//!
//! Pure: what the beams are computed with is not known here, and nothing is drawn. So a search that is repeated from
//! what it has so far goes on as it would have.

use std::cmp::Ordering;

use crate::TokenScore;

/// A search under way. `E` is why a beam ends.
#[derive(Debug, Clone)]
pub struct BeamSearch<E> {
    width: usize,
    length_penalty: f64,
    running: Vec<Beam>,
    finished: Vec<FinishedBeam<E>>,
}

/// A beginning that may go on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Beam {
    /// What was generated.
    pub token_ids: Vec<u32>,
    /// How likely each of them was.
    pub scores: Vec<TokenScore>,
    /// The sum of their log-probabilities.
    pub logprob: f64,
}

/// A beam that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedBeam<E> {
    /// Its tokens.
    pub beam: Beam,
    /// Its log-probability, by its length.
    pub score: f64,
    /// Why it ended.
    pub end: E,
}

/// One way in which a beam may go on.
struct Candidate {
    parent: usize,
    /// Which of the parent's likeliest tokens.
    place: usize,
    token_id: u32,
    logprob: f64,
}

impl<E: Clone> BeamSearch<E> {
    /// A search that begins with nothing generated.
    pub fn new(width: usize, length_penalty: f32) -> Self {
        Self {
            width: width.max(1),
            length_penalty: f64::from(length_penalty),
            running: vec![Beam::default()],
            finished: Vec::new(),
        }
    }

    /// How many of the likeliest tokens must be known of each beam, where so many tokens end it: enough that as many
    /// beams as before can go on though every end is among them.
    pub fn num_candidates(width: usize, num_end_tokens: usize) -> usize {
        width.saturating_mul(1 + num_end_tokens.max(1))
    }

    /// The beams that go on, best first.
    pub fn running(&self) -> &[Beam] {
        &self.running
    }

    /// Takes a step: `likeliest` has for each running beam its `num_candidates` likeliest tokens, best first, and behind
    /// them what else is reported; `num_told` of the former are kept with a beam's scores, and all of the latter. `end_of`
    /// says whether a beam ends with its last token. Answers for each beam that now runs which it goes on from; `None`
    /// once the search is over.
    pub fn step(
        &mut self,
        likeliest: &[TokenScore],
        num_candidates: usize,
        num_told: usize,
        mut end_of: impl FnMut(&[u32]) -> Option<E>,
    ) -> Option<Vec<usize>> {
        assert_eq!(likeliest.len(), self.running.len(), "every beam has its likeliest tokens");
        let mut candidates = Vec::new();
        for (parent, (beam, score)) in self.running.iter().zip(likeliest).enumerate() {
            let likely = score.top.iter().take(num_candidates).enumerate();
            // What is masked can never come.
            candidates.extend(likely.filter(|(_, (_, logprob))| logprob.is_finite()).map(
                |(place, &(token_id, logprob))| Candidate {
                    parent,
                    place,
                    token_id,
                    logprob: beam.logprob + f64::from(logprob),
                },
            ));
        }
        candidates.sort_by(better_first);
        candidates.truncate(num_candidates);

        let length = self.running.first().map_or(1, |beam| beam.token_ids.len() + 1) as f64;
        let divisor = length.powf(self.length_penalty);
        let (mut running, mut parents) = (Vec::new(), Vec::new());
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let parent = candidate.parent;
            let beam = self.running[parent].with(&candidate, &likeliest[parent], num_candidates, num_told);
            match end_of(&beam.token_ids) {
                Some(end) if rank < self.width => {
                    let score = beam.logprob / divisor;
                    self.finished.push(FinishedBeam { beam, score, end });
                }
                None if running.len() < self.width => {
                    running.push(beam);
                    parents.push(parent);
                }
                Some(_) | None => {}
            }
        }
        // Stable: of equals, the one that ended first.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.width);
        self.running = running;
        (!self.is_over(divisor)).then_some(parents)
    }

    /// The beams that ended, best first; as many as the search is wide, unless fewer could ever be.
    pub fn into_best(self) -> Vec<FinishedBeam<E>> {
        self.finished
    }

    fn is_over(&self, divisor: f64) -> bool {
        let Some(best) = self.running.first() else { return true };
        match self.finished.last() {
            Some(worst) if self.finished.len() == self.width => best.logprob / divisor <= worst.score,
            _ => false,
        }
    }
}

fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logprob.total_cmp(&a.logprob).then(a.parent.cmp(&b.parent)).then(a.token_id.cmp(&b.token_id))
}

impl Beam {
    fn with(
        &self,
        candidate: &Candidate,
        likeliest: &TokenScore,
        num_candidates: usize,
        num_told: usize,
    ) -> Self {
        let mut next = self.clone();
        next.token_ids.push(candidate.token_id);
        let more = likeliest.top.iter().skip(num_candidates.max(num_told));
        next.scores.push(TokenScore {
            logprob: likeliest.top[candidate.place].1,
            rank: candidate.place as u32 + 1,
            top: likeliest.top.iter().take(num_told).chain(more).copied().collect(),
        });
        next.logprob = candidate.logprob;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{fake_logprobs, hash_tokens};

    const VOCAB: usize = 7;
    const END: u32 = 0;

    fn likeliest(tokens: &[u32], num: usize) -> TokenScore {
        let logprobs = fake_logprobs(hash_tokens(tokens.iter().copied()), VOCAB);
        let mut top: Vec<(u32, f32)> = (0..).zip(logprobs).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(num);
        TokenScore { logprob: 0.0, rank: 1, top }
    }

    fn search(width: usize, length_penalty: f32, max_tokens: usize) -> Vec<FinishedBeam<()>> {
        let mut search = BeamSearch::new(width, length_penalty);
        let num_candidates = BeamSearch::<()>::num_candidates(width, 1);
        loop {
            let scores: Vec<TokenScore> =
                search.running().iter().map(|beam| likeliest(&beam.token_ids, num_candidates)).collect();
            let end_of =
                |tokens: &[u32]| (tokens.last() == Some(&END) || tokens.len() == max_tokens).then_some(());
            if search.step(&scores, num_candidates, 0, end_of).is_none() {
                return search.into_best();
            }
        }
    }

    /// Every sequence there is, with its summed log-probability.
    fn all_sequences(max_tokens: usize) -> Vec<(Vec<u32>, f64)> {
        let mut open = vec![(Vec::new(), 0.0)];
        let mut ended = Vec::new();
        while let Some((tokens, sum)) = open.pop() {
            let logprobs = fake_logprobs(hash_tokens(tokens.iter().copied()), VOCAB);
            for (token_id, logprob) in (0..).zip(logprobs) {
                let mut longer: Vec<u32> = tokens.clone();
                longer.push(token_id);
                let is_end = token_id == END || longer.len() == max_tokens;
                let place = if is_end { &mut ended } else { &mut open };
                place.push((longer, sum + f64::from(logprob)));
            }
        }
        ended
    }

    #[test]
    fn a_search_as_wide_as_all_there_is_finds_the_best_of_all() {
        let max_tokens = 3;
        let mut all = all_sequences(max_tokens);
        let num_open = VOCAB.pow(max_tokens as u32);
        for length_penalty in [0.0, 1.0] {
            let score = |(tokens, sum): &(Vec<u32>, f64)| sum / (tokens.len() as f64).powf(length_penalty);
            all.sort_by(|a, b| score(b).total_cmp(&score(a)));
            let found = search(num_open, length_penalty as f32, max_tokens);
            for (found, expected) in found.iter().zip(&all).take(20) {
                assert_eq!(found.beam.token_ids, expected.0);
                assert!((found.score - score(expected)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_width_of_one_is_greedy() {
        let found = search(1, 1.0, 12);
        let mut tokens = Vec::new();
        while tokens.last() != Some(&END) && tokens.len() < 12 {
            tokens.push(likeliest(&tokens, 1).top[0].0);
        }
        assert_eq!(found[0].beam.token_ids, tokens);
    }

    #[test]
    fn beams_come_best_first_each_once_and_carry_their_scores() {
        let found = search(4, 1.0, 6);
        assert_eq!(found.len(), 4);
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for (index, one) in found.iter().enumerate() {
            assert!(found[..index].iter().all(|other| other.beam.token_ids != one.beam.token_ids));
            let sum: f64 = one.beam.scores.iter().map(|score| f64::from(score.logprob)).sum();
            assert!((sum - one.beam.logprob).abs() < 1e-6);
            assert_eq!(one.beam.scores.len(), one.beam.token_ids.len());
        }
    }

    #[test]
    fn a_high_length_penalty_favours_long_beams() {
        let length = |length_penalty| -> usize {
            search(3, length_penalty, 8).iter().map(|found| found.beam.token_ids.len()).sum()
        };
        assert!(length(4.0) > length(-2.0), "{} and {}", length(4.0), length(-2.0));
    }

    #[test]
    fn where_little_may_come_fewer_beams_end() {
        let mut search = BeamSearch::new(3, 1.0);
        let only = TokenScore { logprob: 0.0, rank: 1, top: vec![(5, 0.0), (6, f32::NEG_INFINITY)] };
        assert_eq!(search.step(std::slice::from_ref(&only), 6, 0, |_| None::<()>), Some(vec![0]));
        assert_eq!(search.step(std::slice::from_ref(&only), 6, 0, |_| Some(())), None);
        assert_eq!(search.into_best().len(), 1);
    }
}
