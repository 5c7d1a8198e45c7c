//! Which texts an encoder computes next: data in, a plan out.
//!
//! A plan is as large as its budget of tokens allows and begins as soon as the encoder is free: nobody waits for company,
//! and what arrives during a pass goes into the next one together. Requests take turns by the text, so that a request of
//! one text waits for one pass however many texts were there before it.

use std::collections::VecDeque;
use std::sync::Arc;

use candlewick_protocol::RequestKey;

use super::{EncodePlan, EncodeTask, EncoderInput, PlannedText, TextId};

/// The texts that wait.
#[derive(Debug)]
pub struct EncodeQueue {
    /// In order of their turns.
    requests: VecDeque<Waiting>,
    /// Most tokens of a plan, unless one text alone has more.
    max_tokens: usize,
}

#[derive(Debug)]
struct Waiting {
    request: RequestKey,
    task: EncodeTask,
    /// Its plans are its own: it is suspected of having crashed one.
    is_solo: bool,
    texts: VecDeque<(u32, Arc<EncoderInput>)>,
}

impl EncodeQueue {
    /// An empty queue, whose plans have at most so many tokens.
    pub fn new(max_tokens: usize) -> Self {
        Self { requests: VecDeque::new(), max_tokens }
    }

    /// Plans have at most so many tokens from now on.
    pub fn set_max_tokens(&mut self, max_tokens: usize) {
        self.max_tokens = max_tokens;
    }

    /// Texts of a request, each with its index there.
    pub fn admit(
        &mut self,
        request: RequestKey,
        task: EncodeTask,
        is_solo: bool,
        texts: impl IntoIterator<Item = (u32, Arc<EncoderInput>)>,
    ) {
        let texts: VecDeque<_> = texts.into_iter().collect();
        if !texts.is_empty() {
            self.requests.push_back(Waiting { request, task, is_solo, texts });
        }
    }

    /// A request is no longer there.
    pub fn forget(&mut self, request: RequestKey) {
        self.requests.retain(|waiting| waiting.request != request);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The next plan, if anything waits: one text of each request in turn, until the next has no room. A text that is larger
    /// than the budget has a plan of its own, and so has a request that must be alone.
    pub fn plan(&mut self) -> Option<EncodePlan> {
        let mut plan = EncodePlan::default();
        let mut room = self.max_tokens;
        if let Some(mut alone) = self.requests.pop_front_if(|waiting| waiting.is_solo) {
            while alone.take(&mut plan, &mut room) {}
            if !alone.texts.is_empty() {
                self.requests.push_back(alone);
            }
            return Some(plan);
        }
        let mut solo = Vec::new();
        while let Some(mut waiting) = self.requests.pop_front() {
            if waiting.is_solo {
                solo.push(waiting);
            } else if !waiting.take(&mut plan, &mut room) {
                self.requests.push_front(waiting);
                break;
            } else if !waiting.texts.is_empty() {
                self.requests.push_back(waiting);
            }
        }
        // They have waited longest.
        solo.into_iter().rev().for_each(|waiting| self.requests.push_front(waiting));
        (!plan.texts.is_empty()).then_some(plan)
    }
}

impl Waiting {
    /// Moves its next text to the plan, if there is one and room for it.
    fn take(&mut self, plan: &mut EncodePlan, room: &mut usize) -> bool {
        let fits = |(_, input): &mut (u32, Arc<EncoderInput>)| {
            plan.texts.is_empty() || input.token_ids.len() <= *room
        };
        let Some((index, input)) = self.texts.pop_front_if(fits) else { return false };
        *room = room.saturating_sub(input.token_ids.len());
        let id = TextId { request: self.request, index };
        plan.texts.push(PlannedText { id, input, task: self.task });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: EncodeTask = EncodeTask::Classify;

    fn admit(queue: &mut EncodeQueue, request: u64, is_solo: bool, lens: &[usize]) {
        let text = |(index, &len): (usize, &usize)| {
            let input = EncoderInput { token_ids: vec![1; len], type_ids: Vec::new(), num_prompt_tokens: 0 };
            (index as u32, Arc::new(input))
        };
        queue.admit(RequestKey(request), TASK, is_solo, lens.iter().enumerate().map(text));
    }

    fn plans(queue: &mut EncodeQueue) -> Vec<Vec<(u64, u32)>> {
        let plan = |plan: EncodePlan| {
            plan.texts.iter().map(|text| (text.id.request.0, text.id.index)).collect::<Vec<_>>()
        };
        std::iter::from_fn(|| queue.plan().map(plan)).collect()
    }

    #[test]
    fn requests_take_turns_within_the_budget() {
        let mut queue = EncodeQueue::new(10);
        admit(&mut queue, 1, false, &[4, 4, 4]);
        admit(&mut queue, 2, false, &[4]);
        assert_eq!(plans(&mut queue), [vec![(1, 0), (2, 0)], vec![(1, 1), (1, 2)]]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_text_beyond_the_budget_goes_alone() {
        let mut queue = EncodeQueue::new(10);
        admit(&mut queue, 1, false, &[3, 25, 3]);
        assert_eq!(plans(&mut queue), [vec![(1, 0)], vec![(1, 1)], vec![(1, 2)]]);
    }

    #[test]
    fn a_suspect_is_alone_and_has_its_turn() {
        let mut queue = EncodeQueue::new(10);
        admit(&mut queue, 1, false, &[4, 4, 4]);
        admit(&mut queue, 2, true, &[4, 4, 4]);
        admit(&mut queue, 3, false, &[4]);
        assert_eq!(
            plans(&mut queue),
            [vec![(1, 0), (3, 0)], vec![(2, 0), (2, 1)], vec![(1, 1), (1, 2)], vec![(2, 2)]]
        );
    }

    #[test]
    fn what_is_forgotten_is_not_planned() {
        let mut queue = EncodeQueue::new(10);
        admit(&mut queue, 1, false, &[4, 4]);
        admit(&mut queue, 2, false, &[4]);
        queue.forget(RequestKey(1));
        assert_eq!(plans(&mut queue), [vec![(2, 0)]]);
    }
}
