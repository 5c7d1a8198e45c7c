//! What of a request's sampling takes a tokenizer to know, and prompts that are made in other ways than most.

use candlewick_protocol::TruncationSide;

use super::*;

#[test]
fn a_bad_word_is_masked_as_it_begins_and_after_a_space() {
    let processor = byte_level_processor();
    let id = |token: &str| processor.tokenizer.id(token).expect("the vocabulary has it");
    let runs = processor.bad_words(&["th".into(), " th".into(), "thé".into()]).expect("they are good");
    let (bare, spaced, accent) = (id("th"), id("Ġth"), id("Ã©"));
    let expected =
        [vec![bare], vec![spaced], vec![bare], vec![spaced], vec![bare, accent], vec![spaced, accent]];
    assert_eq!(runs, expected);
    // A space that is there anyway makes no other word.
    let processor = metaspace_processor();
    let id = processor.tokenizer.id("▁ab").expect("the vocabulary has it");
    assert_eq!(processor.bad_words(&["ab".into()]).expect("it is good"), [vec![id]]);
    assert_eq!(
        processor.bad_words(&[" ".into()]).expect_err("it is empty").param.as_deref(),
        Some("bad_words.0")
    );
    let many = vec![String::from("a"); 129];
    assert_eq!(processor.bad_words(&many).expect_err("too many").param.as_deref(), Some("bad_words"));
}

#[test]
fn a_budget_for_reasoning_knows_the_marks_and_where_the_prompt_ends() {
    let processor = byte_level_processor();
    let id = |token: &str| processor.tokenizer.id(token).expect("the vocabulary has it");
    let budget = |prompt: &Prompt| {
        let prompt = processor.prepare(prompt).expect("it is good");
        processor.thinking_budget(5, &prompt).expect("the model reasons")
    };
    let answer = budget(&Prompt::Chat(chat("Hi")));
    assert_eq!((answer.num_tokens, answer.starts_inside), (5, false));
    assert_eq!((&*answer.open, &*answer.forced), (&[id("<think>")][..], &[id("</think>")][..]));
    let mut opened = chat("Hi");
    opened.template_kwargs.insert("think".into(), json!(true));
    assert!(budget(&Prompt::Chat(opened)).starts_inside);
    let plain = |text: &str| Prompt::Text { text: text.into(), add_special_tokens: false };
    assert!(budget(&plain("a<think>b")).starts_inside);
    assert!(!budget(&plain("a<think>b</think>c")).starts_inside);

    let other = metaspace_processor();
    let failure = other.thinking_budget(5, &other.prepare(&plain("a")).expect("it is good"));
    let failure = failure.expect_err("it does not reason");
    assert_eq!(
        (failure.kind, failure.param.as_deref()),
        (ErrorKind::Unsupported, Some("thinking_token_budget"))
    );
}

#[test]
fn a_prompt_is_cut_to_its_end_or_its_beginning() {
    let processor = byte_level_processor();
    let text = |num_tokens, side| {
        let prompt = Prompt::Text { text: "abcd".into(), add_special_tokens: false };
        let prompt = processor.truncated(processor.prepare(&prompt).expect("it is good"), num_tokens, side);
        (prompt.token_ids.len(), prompt.text)
    };
    assert_eq!(text(2, TruncationSide::Left), (2, "cd".into()));
    assert_eq!(text(3, TruncationSide::Right), (3, "abc".into()));
    assert_eq!(text(9, TruncationSide::Left), (4, "abcd".into()));
}

#[test]
fn a_request_may_bring_its_own_template_and_special_tokens() {
    let processor = metaspace_processor();
    let own = ChatPrompt { chat_template: Some("ab".into()), ..chat("Hi") };
    let prompt = processor.prepare(&Prompt::Chat(own.clone())).expect("it is good");
    assert_eq!((prompt.text.as_str(), prompt.token_ids.len()), ("ab", 1));
    let special = ChatPrompt { add_special_tokens: true, ..own };
    assert_eq!(processor.prepare(&Prompt::Chat(special)).expect("it is good").token_ids[0], 1);
    let broken = ChatPrompt { chat_template: Some("{% if %}".into()), ..chat("Hi") };
    let failure = processor.prepare(&Prompt::Chat(broken)).expect_err("it cannot be parsed");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("chat_template")));
}

#[test]
fn a_space_between_special_tokens_can_be_left_out() {
    let mut tokenizer = metaspace_json();
    // Without a decoder, tokens stand with a space between them.
    tokenizer["decoder"] = Value::Null;
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let files = files(&[("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]);
    let processor = Arc::new(TextProcessor::load(&files, &TextOptions::default()).expect("it loads"));
    let id = |token: &str| processor.tokenizer.id(token).expect("the vocabulary has it");
    let text = |skip_special_tokens, spaces_between_special_tokens| {
        let params = SamplingParams {
            skip_special_tokens,
            spaces_between_special_tokens,
            ..SamplingParams::default()
        };
        let mut detokenizer = Detokenizer::new(Arc::clone(&processor), &params, Vec::new());
        let ids = [id("a"), id("<s>"), id("</s>"), id("b")];
        ids.map(|id| detokenizer.push(id)).concat()
    };
    assert_eq!(text(false, true), "a <s> </s> b");
    assert_eq!(text(false, false), "a <s></s> b");
    assert_eq!(text(true, false), "a b");
}

/// What a model of a family is shown of the gap between `a` and `b`.
fn gap(mut tokenizer: Value, marks: &[&str]) -> String {
    let first_id = 900;
    let more = added(first_id, &marks.iter().map(|mark| (*mark, true)).collect::<Vec<_>>());
    let tokens = tokenizer["added_tokens"].as_array_mut().expect("a list");
    tokens.retain(|token| !token["content"].as_str().is_some_and(|content| content.contains("fim")));
    tokens.extend(more.as_array().expect("a list").clone());
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("an object");
    // Ids of added tokens follow those of the vocabulary.
    let next = vocab.len();
    for (index, token) in tokenizer["added_tokens"].as_array_mut().expect("a list").iter_mut().enumerate() {
        if token["id"].as_u64().is_some_and(|id| id >= first_id as u64) {
            token["id"] = json!(next + index);
        }
    }
    let files = files(&[("tokenizer.json", tokenizer)]);
    let processor = TextProcessor::load(&files, &TextOptions::default()).expect("it loads");
    let infill = Prompt::Infill { prefix: "a".into(), suffix: "b".into() };
    let ids = processor.prepare(&infill).expect("the model has the tokens").token_ids;
    ids.iter().map(|id| processor.tokenizer.token(*id).expect("a token")).collect()
}

#[test]
fn each_family_is_shown_a_gap_in_its_own_way() {
    for (marks, expected) in [
        // Qwen 2.5 Coder, CodeGemma
        (
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
            "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
        ),
        // StarCoder
        (["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], "<fim_prefix>a<fim_suffix>b<fim_middle>"),
        // DeepSeek Coder
        (
            ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
            "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>",
        ),
    ] {
        assert_eq!(gap(byte_level_json(), &marks), expected);
    }
    // Codestral, whose suffix comes first.
    assert_eq!(gap(byte_level_json(), &["[PREFIX]", "[SUFFIX]", "[MIDDLE]"]), "[SUFFIX]b[PREFIX]a");
    // Code Llama: a space before the prefix, as before every text of its tokenizer, and none before the suffix.
    assert_eq!(gap(metaspace_json(), &["▁<PRE>", "▁<SUF>", "▁<MID>"]), "▁<PRE>▁a▁<SUF>b▁<MID>");
}
