//! A budget for reasoning: once so many tokens of it are generated, its end is forced, token by token.
//!
//! What is forced is a function of the tokens so far, so that it is the same in a batch, after a preemption and after a
//! crash. Marks are looked for as tokens: those of nearly all models are one token each; of others, marks that the model
//! writes in other tokens than its tokenizer would are not seen, and the end is then forced though it has come.

use std::sync::Arc;

/// When and how the end of reasoning is forced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Most tokens of reasoning, the marks around it not counted.
    pub num_tokens: u32,
    /// What opens reasoning.
    pub open: Arc<[u32]>,
    /// What closes it.
    pub close: Arc<[u32]>,
    /// What is forced: `close`, and whatever leads from there to the answer.
    pub forced: Arc<[u32]>,
    /// The prompt ends within reasoning.
    pub starts_inside: bool,
}

/// How far one sequence has come with its reasoning. Rebuilt from the output whenever there is need.
#[derive(Debug, Clone)]
pub(crate) struct ThinkingProgress {
    budget: ThinkingBudget,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// So many tokens of the opening mark have come.
    Before { num_matched: usize },
    /// So many tokens of reasoning have come, the last of them these many of the closing mark.
    Inside { num_tokens: u32, num_matched: usize },
    /// The budget is used: so many tokens of the end have been forced.
    Forcing { num_forced: usize },
    /// Reasoning is over; it is not counted again.
    Over,
}

impl ThinkingProgress {
    pub(crate) fn new(budget: &ThinkingBudget, output: &[u32]) -> Self {
        let phase = match budget.starts_inside {
            true => Phase::Inside { num_tokens: 0, num_matched: 0 },
            false => Phase::Before { num_matched: 0 },
        };
        let mut progress = Self { budget: budget.clone(), phase };
        progress.settle();
        output.iter().for_each(|&token_id| progress.push(token_id));
        progress
    }

    /// The token that must come next, if one must.
    pub(crate) fn forced(&self) -> Option<u32> {
        match self.phase {
            Phase::Forcing { num_forced } => self.budget.forced.get(num_forced).copied(),
            Phase::Before { .. } | Phase::Inside { .. } | Phase::Over => None,
        }
    }

    /// Takes the next token of the output.
    pub(crate) fn push(&mut self, token_id: u32) {
        let ThinkingBudget { open, close, forced, .. } = &self.budget;
        self.phase = match self.phase {
            Phase::Before { num_matched } => match advance(open, num_matched, token_id) {
                matched if matched == open.len() => Phase::Inside { num_tokens: 0, num_matched: 0 },
                num_matched => Phase::Before { num_matched },
            },
            Phase::Inside { num_tokens, num_matched } => match advance(close, num_matched, token_id) {
                matched if matched == close.len() => Phase::Over,
                num_matched => Phase::Inside { num_tokens: num_tokens.saturating_add(1), num_matched },
            },
            Phase::Forcing { num_forced } if num_forced + 1 < forced.len() => {
                Phase::Forcing { num_forced: num_forced + 1 }
            }
            Phase::Forcing { .. } | Phase::Over => Phase::Over,
        };
        self.settle();
    }

    /// Begins to force the end once the budget is used; what the model wrote of the closing mark by itself stands.
    fn settle(&mut self) {
        if let Phase::Inside { num_tokens, num_matched } = self.phase
            && num_tokens >= self.budget.num_tokens
        {
            self.phase = Phase::Forcing { num_forced: num_matched };
        }
    }
}

/// How many tokens of a mark the sequence ends with, once it has this token too. Marks do not overlap themselves.
fn advance(mark: &[u32], num_matched: usize, token_id: u32) -> usize {
    match mark.get(num_matched) {
        Some(&expected) if expected == token_id => num_matched + 1,
        _ => usize::from(mark.first() == Some(&token_id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u32 = 100;

    /// Runs a model that would say these tokens, with the budget over it; what it says.
    fn run(num_tokens: u32, starts_inside: bool, close: &[u32], forced: &[u32], says: &[u32]) -> Vec<u32> {
        let budget = ThinkingBudget {
            num_tokens,
            open: [OPEN].into(),
            close: close.into(),
            forced: forced.into(),
            starts_inside,
        };
        let mut output = Vec::new();
        let mut progress = ThinkingProgress::new(&budget, &output);
        let mut says = says.iter();
        loop {
            let rebuilt = ThinkingProgress::new(&budget, &output);
            assert_eq!(rebuilt.forced(), progress.forced(), "after {output:?}");
            let Some(token_id) = progress.forced().or_else(|| says.next().copied()) else { return output };
            progress.push(token_id);
            output.push(token_id);
        }
    }

    #[test]
    fn the_end_is_forced_once_the_budget_is_used() {
        assert_eq!(run(2, false, &[9], &[9], &[OPEN, 1, 2, 3, 4]), [OPEN, 1, 2, 9, 3, 4]);
        assert_eq!(run(2, true, &[9], &[9], &[1, 2, 3]), [1, 2, 9, 3]);
        assert_eq!(run(0, false, &[9], &[9], &[OPEN, 1]), [OPEN, 9, 1]);
        assert_eq!(run(0, true, &[9], &[9], &[1]), [9, 1]);
    }

    #[test]
    fn reasoning_that_ends_in_time_or_never_begins_is_left_alone() {
        for says in [&[OPEN, 1, 9, 3, OPEN, 4, 5, 6][..], &[1, 2, 3, 4]] {
            assert_eq!(run(2, false, &[9], &[9], says), says);
        }
    }

    #[test]
    fn what_the_model_wrote_of_the_mark_by_itself_stands() {
        // The second token of reasoning is the first of the closing mark.
        assert_eq!(run(2, true, &[7, 8], &[7, 8, 5], &[1, 7, 3]), [1, 7, 8, 5, 3]);
        assert_eq!(run(3, true, &[7, 8], &[7, 8], &[1, 7, 7, 3]), [1, 7, 7, 8, 3]);
    }
}
