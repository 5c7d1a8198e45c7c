//! Each form, alone and behind reasoning.

use candlewick_protocol::{ErrorKind, JsonLayout, OutputForm, Prompt, TaggedStructure};
use serde_json::{Map, Value, json};

use super::schemas::{Rng, any_object, obeys};
use super::*;

fn plain() -> Arc<TextProcessor> {
    processor(None, &[])
}

/// Ends of so many answers to a form.
fn answers(form: OutputForm, num: u64) -> Vec<String> {
    let processor = plain();
    let (grammar, prepared) = compile(&processor, &text_prompt(), Some(form)).expect("it compiles");
    let answer = |seed| {
        let (output, ended) = walk(&processor, &grammar, "", seed, 400);
        ended.then(|| text_of(&read(&processor, &prepared, &output)))
    };
    let answers: Vec<String> = (0..num).filter_map(answer).collect();
    assert!(!answers.is_empty(), "no answer came to an end");
    answers
}

#[test]
fn an_answer_is_one_of_the_choices() {
    let texts = ["yes", "no", "maybe \"so\"\n"].map(String::from);
    let found = answers(OutputForm::Choice(texts.to_vec()), 40);
    assert!(found.iter().all(|answer| texts.contains(answer)), "{found:?}");
    assert!(texts.iter().all(|text| found.contains(text)), "each of them comes: {found:?}");
}

#[test]
fn an_answer_matches_the_pattern_as_a_whole() {
    for pattern in [r"[0-9]{3}/[a-c]+", r"^[0-9]{3}/[a-c]+$"] {
        for answer in answers(OutputForm::Regex(pattern.into()), 10) {
            let (digits, letters) = answer.split_once('/').expect("a slash");
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{answer}");
            assert!(
                !letters.is_empty() && letters.bytes().all(|byte| (b'a'..=b'c').contains(&byte)),
                "{answer}"
            );
        }
    }
}

#[test]
fn grammars_are_read_in_both_notations() {
    let ebnf = "root ::= \"(\" item (\",\" item){0,2} \")\"\nitem ::= [a-c] | root";
    let lark = "start: \"(\" item (\",\" item){0,2} \")\"\nitem: /[a-c]/ | start";
    for grammar in [ebnf, lark] {
        for answer in answers(OutputForm::Grammar(grammar.into()), 20) {
            let opened = answer.matches('(').count();
            assert!(opened == answer.matches(')').count() && answer.starts_with('('), "{answer}");
        }
    }
}

#[test]
fn json_is_laid_out_as_asked() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
                        "required": ["a", "b"], "additionalProperties": false});
    let form = |layout| OutputForm::Json { schema: schema.clone(), layout };
    for answer in answers(form(JsonLayout::Compact), 10) {
        assert!(!answer.contains(char::is_whitespace), "{answer}");
    }
    for answer in answers(form(JsonLayout::Pattern(" ".into())), 10) {
        assert!(!answer.contains("  ") && !answer.contains('\n'), "{answer:?}");
    }
    for answer in answers(form(JsonLayout::Free), 10) {
        serde_json::from_str::<Map<String, Value>>(&answer).expect("an object");
    }
}

#[test]
fn two_hundred_schemas_are_obeyed() {
    let processor = plain();
    let mut num_ended = 0;
    for seed in 0..200 {
        let schema = any_object(&mut Rng(seed));
        let form = OutputForm::Json { schema: schema.clone(), layout: JsonLayout::Compact };
        let (grammar, prepared) = compile(&processor, &text_prompt(), Some(form)).expect("it compiles");
        let (output, ended) = walk(&processor, &grammar, "", seed, 2000);
        let answer = text_of(&read(&processor, &prepared, &output));
        if ended {
            num_ended += 1;
            let value: Value =
                serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
            assert!(obeys(&value, &schema, &schema), "{answer} does not obey {schema}");
        }
    }
    assert!(num_ended > 190, "only {num_ended} came to an end");
}

#[test]
fn a_place_follows_from_the_tokens_alone() {
    let processor = plain();
    let schema = any_object(&mut Rng(3));
    let (grammar, _) =
        compile(&processor, &text_prompt(), Some(OutputForm::json(schema))).expect("it compiles");
    let (output, _) = walk(&processor, &grammar, "", 5, 60);
    let progress = GrammarProgress::new(grammar.clone(), &[]);
    for (place, &token_id) in output.iter().enumerate() {
        let mask = progress.mask(place as u32, &[]).expect("it goes on");
        let resumed = GrammarProgress::new(grammar.clone(), &output[..place]);
        assert_eq!(resumed.mask(place as u32, &[]).expect("it goes on"), mask, "after {place} tokens");
        progress.take(token_id).expect("it was allowed");
    }
}

#[test]
fn an_end_is_allowed_exactly_where_the_form_is_complete() {
    let processor = plain();
    let (grammar, _) =
        compile(&processor, &text_prompt(), Some(OutputForm::Regex("ab?".into()))).expect("it compiles");
    let progress = GrammarProgress::new(grammar, &[]);
    assert!(!progress.mask(0, &[]).expect("it begins").accepts_end());
    progress.take(processor.ids("a")[0]).expect("allowed");
    let mask = progress.mask(1, &[]).expect("it goes on");
    assert!(mask.accepts_end() && !progress.is_complete());
    let (mut logits, end) = (vec![0.0; processor.vocab_size() + 3], processor.vocab_size() as u32 + 1);
    mask.apply(&mut logits, std::iter::once(end));
    let left: Vec<usize> = (0..logits.len()).filter(|id| logits[*id] == 0.0).collect();
    assert_eq!(left, [processor.ids("b")[0] as usize, end as usize]);
    progress.take(processor.ids("b")[0]).expect("allowed");
    assert!(progress.is_complete(), "nothing may follow");
}

#[test]
fn reasoning_is_free_and_the_answer_behind_it_is_not() {
    let processor = plain();
    let form = || Some(OutputForm::Choice(vec!["yes".into(), "no".into()]));
    let prompt = Prompt::Chat(chat());
    let (grammar, prepared) = compile(&processor, &prompt, form()).expect("it compiles");
    let (output, ended) = walk(&processor, &grammar, "<think>Well {x</think>\n\n", 1, 400);
    let deltas = read(&processor, &prepared, &output);
    assert!(ended && ["yes", "no"].contains(&text_of(&deltas).as_str()), "{deltas:?}");
    assert!(deltas.contains(&Delta::Reasoning("W".into())), "{deltas:?}");
    // It may also answer at once.
    let (output, _) = walk(&processor, &grammar, "yes", 1, 400);
    assert_eq!(text_of(&read(&processor, &prepared, &output)), "yes");
    // And a prompt that opens reasoning is gone on from.
    let mut opened = chat();
    opened.template_kwargs.insert("think".into(), true.into());
    let (grammar, prepared) = compile(&processor, &Prompt::Chat(opened), form()).expect("it compiles");
    let (output, _) = walk(&processor, &grammar, "Hm.</think>no", 1, 400);
    assert_eq!(text_of(&read(&processor, &prepared, &output)), "no");
}

#[test]
fn structures_stand_in_free_text_behind_their_triggers() {
    let structure = |name: &str| TaggedStructure {
        begin: format!("<fn={name}>"),
        schema: json!({"type": "array", "items": {"type": "boolean"}, "maxItems": 2}),
        end: "</fn>".into(),
    };
    let form = OutputForm::StructuralTag {
        triggers: vec!["<fn".into()],
        structures: vec![structure("a"), structure("b")],
    };
    let processor = plain();
    let (grammar, prepared) = compile(&processor, &text_prompt(), Some(form)).expect("it compiles");
    for seed in 0..10 {
        let (output, _) = walk(&processor, &grammar, "So: <fn", seed, 200);
        let answer = text_of(&read(&processor, &prepared, &output));
        let rest = answer.strip_prefix("So: <fn=").expect(&answer);
        let json = rest.get(2..).and_then(|rest| rest.split("</fn>").next()).expect(&answer);
        serde_json::from_str::<Vec<bool>>(json).unwrap_or_else(|error| panic!("{answer}: {error}"));
    }
}

#[test]
fn what_cannot_be_guaranteed_is_named() {
    let refused = |form: OutputForm| {
        let failure = compile(&plain(), &text_prompt(), Some(form)).expect_err("it is refused");
        assert_eq!(failure.kind, ErrorKind::InvalidRequest);
        (failure.param.expect("it has a place"), failure.message)
    };
    let schema = json!({"properties": {"tags": {"type": "array", "uniqueItems": true}}});
    let (param, message) = refused(OutputForm::json(schema));
    assert_eq!(param, "response_format.properties.tags.uniqueItems");
    assert!(message.contains("uniqueItems"), "{message}");
    let (param, message) =
        refused(OutputForm::json(json!({"oneOf": [{"type": "object"}, {"properties": {}}]})));
    assert!(param == "response_format" && message.contains("oneOf"), "{message}");
    let (_, message) = refused(OutputForm::json(json!({"$ref": "#/$defs/none"})));
    assert!(message.contains("none"), "{message}");
    let (_, message) = refused(OutputForm::json(json!({"type": "integer", "minimum": 3, "maximum": 2})));
    assert!(message.to_lowercase().contains("unsatisfiable"), "{message}");
    refused(OutputForm::Regex("(".into()));
    refused(OutputForm::Regex("a(?=b)".into()));
    refused(OutputForm::Grammar("start: missing".into()));
}

#[test]
fn a_form_is_compiled_once() {
    let processor = plain();
    let form = || Some(OutputForm::Regex("[a-z]+".into()));
    let (first, _) = compile(&processor, &text_prompt(), form()).expect("it compiles");
    let (again, _) = compile(&processor, &text_prompt(), form()).expect("it compiles");
    assert!(Arc::ptr_eq(&first, &again));
    for number in 0..100 {
        let form = OutputForm::Choice(vec![format!("{number}")]);
        compile(&processor, &text_prompt(), Some(form)).expect("it compiles");
    }
    assert!(processor.grammars.cache.len() <= 64, "and no more are kept than there is room for");
}

#[test]
fn a_vocabulary_of_marked_spaces_and_bytes_will_do() {
    let processor = crate::text::tests::metaspace_processor();
    let schema = json!({"type": "object", "properties": {"é": {"const": "a b"}}, "required": ["é"],
                        "additionalProperties": false});
    let (grammar, prepared) =
        compile(&processor, &text_prompt(), Some(OutputForm::json(schema))).expect("it compiles");
    let (output, ended) = walk(&processor, &grammar, "", 2, 400);
    let answer = text_of(&read(&processor, &prepared, &output));
    assert!(ended, "{answer}");
    assert_eq!(serde_json::from_str::<Value>(&answer).expect(&answer), json!({"é": "a b"}));
}
