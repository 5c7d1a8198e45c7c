//! Guessing what a sequence will say, so that one step can bring several of its tokens.
//!
//! Guesses change no token. The model computes a guess behind the last known token and samples at each place; sampling
//! depends on nothing but the place, so what it draws there is what it would have drawn, and a guess stands as far as it
//! says the same (`Chunk::accept`). This is Leviathan et al., "Fast inference from transformers via speculative decoding"
//! (2023), with draws that are known: no rejection sampling is needed for the answer to be the same, token for token.
//!
//! How much is guessed is learned: a guess is computed while its chance of being right is worth its time ([`Pace`]), and
//! the chance is measured on every guess, also on those that are not computed.

mod ngram;

use ngram::NgramIndex;

use crate::Sequence;
use crate::pace::Pace;

/// How guesses are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeculationLimits {
    /// Most drafted tokens of a sequence in a step.
    pub max_draft_tokens: usize,
    /// Fewest of the last tokens that must have come before.
    pub ngram_min: usize,
    /// Most of them that are compared.
    pub ngram_max: usize,
}

/// How often guesses were right, by how many of the last tokens had come before.
#[derive(Debug, Clone)]
pub struct Acceptance {
    chances: Vec<f64>,
    /// Shortest run that is told apart.
    num_same_min: usize,
    /// How much the latest guess counts.
    weight: f64,
}

impl Acceptance {
    /// Of all sequences: it changes slowly, and is what one starts from.
    pub fn of_all(limits: SpeculationLimits) -> Self {
        let SpeculationLimits { ngram_min, ngram_max, .. } = limits;
        Self {
            chances: vec![0.5; ngram_max.saturating_sub(ngram_min) + 1],
            num_same_min: ngram_min,
            weight: 1.0 / 64.0,
        }
    }

    /// Of one sequence: what is known of all, until it has shown otherwise.
    fn of_one(&self) -> Self {
        Self { weight: 1.0 / 8.0, ..self.clone() }
    }

    /// The chance that a guessed token is right, if those before it are.
    fn chance(&self, num_same: usize) -> f64 {
        self.chances[self.class(num_same)]
    }

    fn note(&mut self, num_same: usize, was_right: bool) {
        let class = self.class(num_same);
        self.chances[class] += self.weight * (f64::from(was_right) - self.chances[class]);
    }

    fn class(&self, num_same: usize) -> usize {
        num_same.saturating_sub(self.num_same_min).min(self.chances.len() - 1)
    }
}

/// The guesses about one sequence.
#[derive(Debug)]
pub struct Speculation {
    text: NgramIndex,
    acceptance: Acceptance,
    guess: Option<Guess>,
}

#[derive(Debug)]
struct Guess {
    token_ids: Vec<u32>,
    num_same: usize,
}

impl Speculation {
    /// Nothing is guessed yet.
    pub fn new(limits: SpeculationLimits, all: &Acceptance) -> Self {
        Self {
            text: NgramIndex::new(limits.ngram_min, limits.ngram_max),
            acceptance: all.of_one(),
            guess: None,
        }
    }

    /// Guesses at most so many tokens after a sequence's.
    pub fn guess(&mut self, sequence: &Sequence, num_max: usize) {
        let Sequence { prompt, output, params, .. } = sequence;
        let known = prompt.iter().chain(output).copied();
        self.text.extend(known.skip(self.text.len()));
        self.guess = self.text.find().filter(|_| num_max > 0).map(|found| {
            let mut token_ids = self.text.tokens_from(found.place, num_max);
            // Nothing comes after an end.
            let end = token_ids.iter().position(|&token_id| params.is_end(token_id));
            token_ids.truncate(end.unwrap_or(token_ids.len()));
            Guess { token_ids, num_same: found.num_same }
        });
    }

    /// As much of the guess as is worth computing in a step that computes `num_tokens` without it.
    pub fn draft(&self, pace: &Pace, num_tokens: usize, num_decoding: usize) -> &[u32] {
        let Some(Guess { token_ids, num_same }) = &self.guess else { return &[] };
        let chance = self.acceptance.chance(*num_same);
        let pays = |num: &usize| {
            let all_right = chance.powi(*num as i32 + 1);
            pace.pays(all_right, num_tokens + num, num_decoding)
        };
        let num = (0..token_ids.len()).take_while(pays).count();
        &token_ids[..num]
    }

    /// Compares the guess with what came, whether or not it was computed.
    pub fn check(&mut self, came: impl Iterator<Item = u32>, all: &mut Acceptance) {
        let Some(Guess { token_ids, num_same }) = self.guess.take() else { return };
        for (guessed, came) in token_ids.into_iter().zip(came) {
            let was_right = guessed == came;
            self.acceptance.note(num_same, was_right);
            all.note(num_same, was_right);
            if !was_right {
                break;
            }
        }
    }
}
