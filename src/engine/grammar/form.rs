//! What a client asks of an answer's text, as a part of a grammar.

use candlewick_protocol::{Failure, JsonLayout, OutputForm, TaggedStructure};
use llguidance::api::GrammarWithLexer;

use super::ebnf;
use super::lark::{Lark, one_of};
use super::schema::{self, Strictness};

/// A form, as an expression. `param` is the field of the request that it comes from.
pub(super) fn expression(lark: &mut Lark<'_>, form: &OutputForm, param: &str) -> Result<String, Failure> {
    Ok(match form {
        OutputForm::Json { schema, layout } => {
            lark.nested(schema::grammar(schema, layout, Strictness::Exact, param)?)
        }
        OutputForm::Regex(pattern) => lark.nested(GrammarWithLexer::from_regex(whole(pattern))),
        OutputForm::Choice(texts) => one_of(texts.iter().map(String::as_str)),
        OutputForm::Grammar(text) if ebnf::is_ebnf(text) => {
            let text = ebnf::to_lark(text).map_err(|why| Failure::invalid(param, why))?;
            lark.nested(GrammarWithLexer::from_lark(text))
        }
        OutputForm::Grammar(text) => lark.nested(GrammarWithLexer::from_lark(text.clone())),
        OutputForm::StructuralTag { triggers, structures } => {
            structural_tag(lark, triggers, structures, param)?
        }
    })
}

/// A pattern without the anchors at its ends: an answer is matched as a whole anyway.
fn whole(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        // A dollar behind an odd number of backslashes is a dollar.
        Some(rest) if rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0 => rest,
        _ => pattern,
    }
}

/// Free text, with structures wherever a trigger begins one.
fn structural_tag(
    lark: &mut Lark<'_>,
    triggers: &[String],
    structures: &[TaggedStructure],
    param: &str,
) -> Result<String, Failure> {
    let mut tags = Vec::new();
    for trigger in triggers {
        let mut bodies = Vec::new();
        for (index, structure) in structures.iter().enumerate() {
            let Some(rest) = structure.begin.strip_prefix(trigger.as_str()) else { continue };
            let path = format!("{param}.structures.{index}.schema");
            let json = schema::grammar(&structure.schema, &JsonLayout::Free, Strictness::Exact, &path)?;
            let json = lark.nested(json);
            bodies.push(format!("{} {json} {}", lark.mark(rest), lark.mark(&structure.end)));
        }
        let text = lark.text_up_to(trigger);
        tags.push(format!("{text} ({})", bodies.join(" | ")));
    }
    let tags = lark.rule(&tags.join(" | "));
    let text = lark.any_text();
    Ok(format!("({tags})* {text}"))
}
