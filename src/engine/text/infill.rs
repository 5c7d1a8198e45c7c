//! Filling in between two texts: the control tokens that models are trained with.

use super::tokenizer::ModelTokenizer;

/// How a model is asked to fill a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Infill {
    /// Before the text that stands before the gap.
    prefix: u32,
    /// Before the text that stands after the gap.
    suffix: u32,
    /// Where the gap's text begins; models that have the suffix first need none.
    middle: Option<u32>,
    is_suffix_first: bool,
}

/// Families, by the tokens for prefix, suffix and middle.
const FAMILIES: [(&str, &str, &str); 6] = [
    // Qwen 2.5 Coder, CodeGemma
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    // StarCoder, Granite
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    // SantaCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    // Code Llama
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    // DeepSeek Coder: the hole stands where the gap is
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    // Stable Code
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
];

impl Infill {
    /// The family of a tokenizer, by the tokens it has.
    pub(crate) fn of(tokenizer: &ModelTokenizer) -> Option<Self> {
        let known = FAMILIES.into_iter().find_map(|(prefix, suffix, middle)| {
            let middle = Some(tokenizer.id(middle)?);
            Some(Self {
                prefix: tokenizer.id(prefix)?,
                suffix: tokenizer.id(suffix)?,
                middle,
                is_suffix_first: false,
            })
        });
        known.or_else(|| {
            // Codestral
            let (prefix, suffix) = (tokenizer.id("[PREFIX]")?, tokenizer.id("[SUFFIX]")?);
            Some(Self { prefix, suffix, middle: None, is_suffix_first: true })
        })
    }

    /// The prompt's ids, but for the tokenizer's own first token.
    pub(crate) fn ids(
        &self,
        tokenizer: &ModelTokenizer,
        prefix: &str,
        suffix: &str,
    ) -> Result<Vec<u32>, tokenizers::Error> {
        let prefix = tokenizer.encode(prefix, false)?;
        let suffix = encode_glued(tokenizer, suffix)?;
        let before = std::iter::once(self.prefix).chain(prefix);
        let after = std::iter::once(self.suffix).chain(suffix);
        Ok(match self.is_suffix_first {
            true => after.chain(before).collect(),
            false => before.chain(after).chain(self.middle).collect(),
        })
    }
}

/// The ids of a text that follows a mark without a space. Some tokenizers put one before every text; it is left out by
/// having another character stand there, as Code Llama's own code does.
fn encode_glued(tokenizer: &ModelTokenizer, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
    const GUARD: &str = "\n";
    let first = tokenizer.encode("a", false)?.first().and_then(|&id| tokenizer.token(id));
    if !first.is_some_and(|token| token.starts_with('▁')) {
        return tokenizer.encode(text, false);
    }
    let guard = tokenizer.encode(GUARD, false)?;
    let ids = tokenizer.encode(&format!("{GUARD}{text}"), false)?;
    match ids.strip_prefix(guard.as_slice()) {
        Some(glued) => Ok(glued.to_vec()),
        // The guard has grown together with the text.
        None => tokenizer.encode(text, false),
    }
}
