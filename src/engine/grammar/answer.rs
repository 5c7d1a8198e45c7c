//! A whole output as one grammar: reasoning, then the answer, which is a form, or calls, or text with calls in it.

use candlewick_protocol::{Constraint, Failure};
use llguidance::api::TopLevelGrammar;

use super::calls::{self, CallRules};
use super::form;
use super::lark::Lark;
use crate::text::output::{ReasoningSyntax, Tags};
use crate::text::tokenizer::ModelTokenizer;

/// What an output is to be.
pub(super) struct Answer<'a> {
    pub(super) reasoning: Reasoning,
    /// What its text is held to.
    pub(super) form: Option<&'a Constraint>,
    /// Which calls it makes.
    pub(super) calls: Option<CallRules<'a>>,
    /// Calls instead of the form, or within the text: the model decides.
    pub(super) calls_are_optional: bool,
}

/// Where an output stands to reasoning when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reasoning {
    /// There is none, or it is over.
    None,
    /// It goes on.
    Open(Tags),
    /// It may come first.
    Possible(Tags),
    /// It may come first, in channels of its own.
    Channels,
}

impl Reasoning {
    /// By the model's syntax and by how the prompt ends.
    pub(super) fn of(syntax: Option<ReasoningSyntax>, prompt: &str, starts_inside: bool) -> Self {
        match syntax {
            None => Self::None,
            Some(ReasoningSyntax::Harmony) => Self::Channels,
            Some(ReasoningSyntax::Tags(tags)) if starts_inside => Self::Open(tags),
            // An empty block in the prompt is how templates switch reasoning off.
            Some(ReasoningSyntax::Tags(tags)) if prompt.trim_end().ends_with(tags.close) => Self::None,
            Some(ReasoningSyntax::Tags(tags)) => Self::Possible(tags),
        }
    }
}

impl Answer<'_> {
    /// Tells apart grammars that are not the same.
    pub(super) fn name(&self) -> String {
        let Self { reasoning, form, calls, calls_are_optional } = self;
        format!("{reasoning:?} {form:?} {calls:?} {calls_are_optional}")
    }

    /// The grammar.
    ///
    /// # Errors
    /// What of the request cannot be guaranteed.
    pub(super) fn grammar(&self, tokenizer: &ModelTokenizer) -> Result<TopLevelGrammar, Failure> {
        let mut lark = Lark::new(tokenizer);
        let form = match self.form {
            Some(Constraint { form, param }) => Some(form::expression(&mut lark, form, param)?),
            None => None,
        };
        if self.reasoning == Reasoning::Channels {
            let calls = self.calls.as_ref().map(|calls| calls::harmony(&mut lark, calls)).transpose()?;
            let start = channels(&mut lark, form, calls, self.calls_are_optional);
            return Ok(lark.finish(&start));
        }
        let calls = match &self.calls {
            Some(rules) if self.calls_are_optional && form.is_none() => {
                Some(calls::within_text(&mut lark, rules)?)
            }
            Some(rules) => Some(calls::alone(&mut lark, rules)?),
            None => None,
        };
        let content = match (form, calls) {
            (Some(form), Some(calls)) => format!("({form} | {calls})"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => lark.any_text(),
        };
        let before = before(&mut lark, self.reasoning);
        Ok(lark.finish(&format!("{before} {content}")))
    }
}

/// Reasoning between tags. Line ends behind it are markup, and as many as models write.
fn before(lark: &mut Lark<'_>, reasoning: Reasoning) -> String {
    let rest = |lark: &mut Lark<'_>, tags: Tags| {
        let text = lark.text_up_to(tags.close);
        let line_ends = lark.terminal(r"/\n{1,2}/");
        format!("{text} {line_ends}?")
    };
    match reasoning {
        Reasoning::None | Reasoning::Channels => String::new(),
        Reasoning::Open(tags) => rest(lark, tags),
        Reasoning::Possible(tags) => {
            let rest = rest(lark, tags);
            format!("({} {rest})?", lark.mark(tags.open))
        }
    }
}

/// The messages of gpt-oss: reasoning in a channel of its own, then one message that is the answer, or calls. The prompt
/// ends with `<|start|>assistant`.
fn channels(lark: &mut Lark<'_>, form: Option<String>, calls: Option<String>, optional: bool) -> String {
    let text = lark.any_text();
    let analysis = format!(
        "{} {text} {}",
        lark.mark("<|channel|>analysis<|message|>"),
        lark.mark("<|end|><|start|>assistant")
    );
    let analysis = lark.rule(&analysis);
    let constrain = if lark.has_token("<|constrain|>") {
        format!("(\" \" {})?", lark.mark("<|constrain|>json"))
    } else {
        String::new()
    };
    let answer = form.or_else(|| (optional || calls.is_none()).then(|| text.clone())).map(|content| {
        format!("{} {constrain} {} {content}", lark.mark("<|channel|>final"), lark.mark("<|message|>"))
    });
    let contents: Vec<String> = answer.into_iter().chain(calls).collect();
    format!("{analysis}* ({})", contents.join(" | "))
}
