//! Which tokens may come next.

use toktrie::SimpleVob;

/// The tokens that a grammar allows at one place of one sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenMask {
    allowed: SimpleVob,
    num_tokens: usize,
}

impl TokenMask {
    /// `allowed` has a bit for each token, and one behind them for the end of the answer.
    pub(super) fn new(allowed: SimpleVob, num_tokens: usize) -> Self {
        Self { allowed, num_tokens }
    }

    /// Whether a token may come. Tokens that end the answer are not asked about here.
    pub fn allows(&self, token_id: u32) -> bool {
        (token_id as usize) < self.num_tokens && self.allowed.is_allowed(token_id)
    }

    /// Whether the answer may end here.
    pub fn accepts_end(&self) -> bool {
        self.allowed.is_allowed(self.num_tokens as u32)
    }

    /// Makes impossible what may not come. `ends` are the tokens that end the answer.
    pub fn apply(&self, logits: &mut [f32], ends: impl Iterator<Item = u32>) {
        let kept: Vec<(usize, f32)> = match self.accepts_end() {
            true => ends.filter_map(|id| Some((id as usize, *logits.get(id as usize)?))).collect(),
            false => Vec::new(),
        };
        let num_known = self.num_tokens.min(logits.len());
        let (known, unknown) = logits.split_at_mut(num_known);
        for (logits, bits) in known.chunks_mut(u32::BITS as usize).zip(self.allowed.as_slice()) {
            // Within a text almost everything is allowed, and within markup almost nothing.
            match *bits {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                bits => {
                    for (place, logit) in logits.iter_mut().enumerate() {
                        if bits >> place & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        // Rows of the model without a token.
        unknown.fill(f32::NEG_INFINITY);
        for (id, logit) in kept {
            logits[id] = logit;
        }
    }
}

impl std::fmt::Debug for TokenMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenMask").field("num_allowed", &self.allowed.num_set()).finish()
    }
}
