//! Guessing what a sequence will say, so that one step can bring several of its tokens.
//!
//! Guesses change no token. The model computes a guess behind the last known token and samples at each place; sampling
//! depends on nothing but the place, so what it draws there is what it would have drawn, and a guess stands as far as it
//! says the same (`Chunk::accept`). This is Leviathan et al., "Fast inference from transformers via speculative decoding"
//! (2023), with draws that are known: no rejection sampling is needed for the answer to be the same, token for token.
//!
//! Guesses come from the text itself (`ngram.rs`), which costs nothing, and from a draft model (`draft.rs`), which costs its own
//! time: it is asked where it has been right more often, as far as that pays (`asking.rs`).
//!
//! How much is guessed is learned: a guess is computed while its chance of being right is worth its time ([`Pace`]), and
//! the chance is measured on every guess, also on those that are not computed.

mod asking;
mod draft;
mod ngram;

pub(crate) use asking::{Asking, Candidate};
pub use draft::{DraftAsk, Drafter, Drafts};
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

/// What costs nothing need only be so likely to be right as what costs time.
const AS_GOOD: f64 = 0.9;

/// Where a guess comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// So many of the last tokens came before.
    Text(usize),
    /// The draft model.
    Draft,
}

/// How often guesses were right, by where they came from.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// By how many of the last tokens had come before; the last one is the draft model's.
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
            chances: vec![0.5; ngram_max.saturating_sub(ngram_min) + 2],
            num_same_min: ngram_min,
            weight: 1.0 / 64.0,
        }
    }

    /// Of one sequence: what is known of all, until it has shown otherwise.
    fn of_one(&self) -> Self {
        Self { weight: 1.0 / 8.0, ..self.clone() }
    }

    /// The chance that a guessed token is right, if those before it are.
    fn chance(&self, origin: Origin) -> f64 {
        self.chances[self.class(origin)]
    }

    fn note(&mut self, origin: Origin, was_right: bool) {
        let class = self.class(origin);
        self.chances[class] += self.weight * (f64::from(was_right) - self.chances[class]);
    }

    fn class(&self, origin: Origin) -> usize {
        let of_draft = self.chances.len() - 1;
        match origin {
            Origin::Text(num_same) => num_same.saturating_sub(self.num_same_min).min(of_draft - 1),
            Origin::Draft => of_draft,
        }
    }
}

/// The guesses about one sequence.
#[derive(Debug)]
pub struct Speculation {
    text: NgramIndex,
    acceptance: Acceptance,
    guess: Option<Guess>,
    /// What the text said where the draft model was believed: it is measured all the same, since it costs nothing.
    passed_over: Option<Guess>,
    /// What the draft model has said, and behind how many tokens.
    drafted: Option<(usize, Vec<u32>)>,
}

#[derive(Debug)]
struct Guess {
    token_ids: Vec<u32>,
    origin: Origin,
}

impl Speculation {
    /// Nothing is guessed yet.
    pub fn new(limits: SpeculationLimits, all: &Acceptance) -> Self {
        Self {
            text: NgramIndex::new(limits.ngram_min, limits.ngram_max),
            acceptance: all.of_one(),
            guess: None,
            passed_over: None,
            drafted: None,
        }
    }

    /// Guesses at most so many tokens after a sequence's: by the text, or what the draft model has said of it, if that is the
    /// likelier to be right.
    pub fn guess(&mut self, sequence: &Sequence, num_max: usize) {
        let Sequence { prompt, output, params, .. } = sequence;
        let known = prompt.iter().chain(output).copied();
        self.text.extend(known.skip(self.text.len()));
        let by_text = self.text.find().filter(|_| num_max > 0).map(|found| {
            let mut token_ids = self.text.tokens_from(found.place, num_max);
            // Nothing comes after an end.
            let end = token_ids.iter().position(|&token_id| params.is_end(token_id));
            token_ids.truncate(end.unwrap_or(token_ids.len()));
            Guess { token_ids, origin: Origin::Text(found.num_same) }
        });
        let drafted = self.drafted.as_ref().filter(|(place, _)| *place == prompt.len() + output.len());
        let by_draft = drafted.map(|(_, token_ids)| Guess {
            token_ids: token_ids[..num_max.min(token_ids.len())].to_vec(),
            origin: Origin::Draft,
        });
        (self.guess, self.passed_over) = match (by_text, by_draft) {
            (Some(text), Some(draft)) if !self.is_as_good(&text) => (Some(draft), Some(text)),
            (text, draft) => (text.or(draft), None),
        };
    }

    /// Whether a guess by the text is about as likely to be right as one of the draft model.
    fn is_as_good(&self, guess: &Guess) -> bool {
        let (by_text, by_draft) =
            (self.acceptance.chance(guess.origin), self.acceptance.chance(Origin::Draft));
        !guess.token_ids.is_empty() && by_text >= by_draft * AS_GOOD
    }

    /// The chance that a token of the draft model is right, if it is worth asking: not where the text says as much.
    pub fn chance_of_draft(&self) -> Option<f64> {
        let is_told = self.guess.as_ref().is_some_and(|guess| self.is_as_good(guess));
        (!is_told).then(|| self.acceptance.chance(Origin::Draft))
    }

    /// The draft model has said these, behind so many tokens.
    pub fn note_draft(&mut self, place: usize, token_ids: Vec<u32>) {
        self.drafted = Some((place, token_ids));
    }

    /// As much of the guess as is worth computing in a step that computes `num_tokens` without it.
    pub fn draft(&self, pace: &Pace, num_tokens: usize, num_decoding: usize) -> &[u32] {
        let Some(Guess { token_ids, origin }) = &self.guess else { return &[] };
        let chance = self.acceptance.chance(*origin);
        let pays = |num: &usize| {
            let all_right = chance.powi(*num as i32 + 1);
            pace.pays(all_right, num_tokens + num, num_decoding)
        };
        let num = (0..token_ids.len()).take_while(pays).count();
        &token_ids[..num]
    }

    /// Compares the guess with what came, whether or not it was computed.
    pub fn check(&mut self, came: impl Iterator<Item = u32>, all: &mut Acceptance) {
        self.drafted = None;
        let came: Vec<u32> = came.collect();
        for Guess { token_ids, origin } in self.guess.take().into_iter().chain(self.passed_over.take()) {
            for (guessed, &came) in token_ids.into_iter().zip(&came) {
                let was_right = guessed == came;
                self.acceptance.note(origin, was_right);
                all.note(origin, was_right);
                if !was_right {
                    break;
                }
            }
        }
    }
}
