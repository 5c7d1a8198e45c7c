//! A beam search over the sequences of one request.
//!
//! Each beam is a sequence of the engine's, which is held after each token until the search says how it goes on. The
//! search itself is here, beside all else that must survive a batcher: after a crash the beams are admitted anew, and
//! those whose likeliest tokens had been told are not asked again.

use candlewick_engine::{Beam, BeamSearch, FinishedBeam, SamplingParams, SequenceEnd, TokenScore};

use super::GenerationArgs;

/// A search under way.
pub(super) struct Beams {
    search: BeamSearch<Option<SequenceEnd>>,
    width: usize,
    /// For each beam that runs: the number of its sequence.
    numbers: Vec<u32>,
    /// For each of them: its likeliest tokens, once they are told.
    likeliest: Vec<Option<TokenScore>>,
    next_number: u32,
}

/// What a search has found.
pub(super) struct Found {
    pub(super) beam: Beam,
    /// Why it ended; `None` if a stop string ended it.
    pub(super) end: Option<SequenceEnd>,
}

/// How far the search has come.
pub(super) enum Progress {
    /// Other beams have not told yet.
    Waiting,
    /// It goes on: for each beam that runs now, the number of the sequence that it goes on from.
    GoesOn(Vec<u32>),
    /// It is over: what it has found, best first.
    Over(Vec<Found>),
}

impl Beams {
    pub(super) fn new(width: u32, length_penalty: f32) -> Self {
        let width = width as usize;
        let search = BeamSearch::new(width, length_penalty);
        Self { search, width, numbers: vec![0], likeliest: vec![None], next_number: 1 }
    }

    /// The beams whose likeliest tokens are not known: the numbers of their sequences, and what was generated.
    pub(super) fn open(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let beams = self.numbers.iter().zip(self.search.running()).zip(&self.likeliest);
        beams
            .filter(|(_, likeliest)| likeliest.is_none())
            .map(|((number, beam), _)| (*number, beam.token_ids.as_slice()))
    }

    pub(super) fn is_waiting_for(&self, number: u32) -> bool {
        self.open().any(|(open, _)| open == number)
    }

    /// Takes the likeliest tokens behind one beam.
    pub(super) fn take(&mut self, number: u32, score: TokenScore, args: &GenerationArgs) -> Progress {
        if let Some(place) = self.numbers.iter().position(|&own| own == number) {
            self.likeliest[place] = Some(score);
        }
        if self.likeliest.iter().any(Option::is_none) {
            return Progress::Waiting;
        }
        let likeliest: Vec<TokenScore> = self.likeliest.drain(..).flatten().collect();
        let num_candidates = args.params.num_beam_candidates(self.width);
        let num_told = args.output.logprobs.unwrap_or(0) as usize;
        let end_of = |output: &[u32]| end_of(output, args);
        match self.search.step(&likeliest, num_candidates, num_told, end_of) {
            Some(parents) => {
                let parents: Vec<u32> = parents.into_iter().map(|parent| self.numbers[parent]).collect();
                self.numbers = (self.next_number..).take(parents.len()).collect();
                self.next_number += parents.len() as u32;
                self.likeliest = vec![None; parents.len()];
                Progress::GoesOn(parents)
            }
            None => Progress::Over(self.results()),
        }
    }

    /// As many as the search is wide. Where masks leave so little that fewer could ever end, the last stands for the
    /// rest.
    fn results(&self) -> Vec<Found> {
        let best = self.search.clone().into_best().into_iter();
        let mut found: Vec<Found> = best.map(|FinishedBeam { beam, end, .. }| Found { beam, end }).collect();
        while found.len() < self.width {
            let (beam, end) = match found.last() {
                Some(last) => (last.beam.clone(), last.end),
                None => (Beam::default(), Some(SequenceEnd::Eos)),
            };
            found.push(Found { beam, end });
        }
        found
    }
}

/// Whether a beam ends with its last token; `Some(None)` by a stop string.
fn end_of(output: &[u32], args: &GenerationArgs) -> Option<Option<SequenceEnd>> {
    let params: &SamplingParams = &args.params;
    if let Some(end) = params.end_of(output) {
        return Some(Some(end));
    }
    if params.stop.is_empty() || output.len() <= params.min_tokens as usize {
        return None;
    }
    let text = args.processor.text_of(output, params.skip_special_tokens);
    params.stop.iter().any(|stop| text.contains(stop.as_str())).then_some(None)
}
