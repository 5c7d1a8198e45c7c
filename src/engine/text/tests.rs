//! The room's rules, tried on two small tokenizers that are built here: a byte-level one in the manner of Qwen, and one
//! with spaces marked and bytes to fall back on, in the manner of Llama 2.

mod constraints;

use std::collections::BTreeMap;
use std::sync::Arc;

use candlewick_protocol::{
    ChatPrompt, Content, Delta, ErrorKind, Message, Prompt, SamplingOptions, TextOutput, TextTask, ToolChoice,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::detokenizer::Detokenizer;
use super::pieces::byte_level;
use super::*;
use crate::{ModelFile, ResolveLimits, SamplingParams};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if tools %}<tool_call>{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\
                        {% if think %}<think>\n{% endif %}";

fn files(files: &[(&str, Value)]) -> ModelFiles {
    let file = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        ModelFile::Embedded(Box::leak(text.into_bytes().into_boxed_slice()))
    };
    let files: BTreeMap<String, ModelFile> =
        files.iter().map(|(name, value)| (name.to_string(), file(value))).collect();
    ModelFiles { files, ..ModelFiles::default() }
}

fn added(first_id: usize, tokens: &[(&str, bool)]) -> Value {
    let token = |(index, (content, special)): (usize, &(&str, bool))| {
        json!({"id": first_id + index, "content": content, "special": special,
               "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
    };
    tokens.iter().enumerate().map(token).collect()
}

fn byte_level_json() -> Value {
    byte_level_with(&[])
}

/// With more added tokens.
fn byte_level_with(marks: &[(&str, bool)]) -> Value {
    let mut chars: Vec<char> = (0..0x144)
        .filter_map(char::from_u32)
        .filter(|char| byte_level(&char.to_string()).len() == 1 && !char.is_control())
        .collect();
    chars.retain(|char| {
        char.len_utf8() == 1 || byte_level(&char.to_string()) != char.to_string().into_bytes()
    });
    let mut words: Vec<String> = chars.iter().map(char::to_string).collect();
    words.extend(["th", "Ġth", "Ã©", "ðŁ", "ĺĢ", "ðŁĺĢ"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let specials = [
        ("<|endoftext|>", true),
        ("<|im_start|>", true),
        ("<|im_end|>", true),
        ("<think>", false),
        ("</think>", false),
        ("<tool_call>", true),
        ("</tool_call>", true),
        ("<|fim_prefix|>", false),
        ("<|fim_middle|>", false),
        ("<|fim_suffix|>", false),
    ];
    let specials = [&specials, marks].concat();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added(words.len(), &specials),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["t h", "Ġ th", "Ã ©", "ð Ł", "ĺ Ģ", "ðŁ ĺĢ"]},
    })
}

/// A byte-level processor with more added tokens, and a template that shows no family's calls.
pub(crate) fn load_with_marks(marks: &[(&str, bool)], options: &TextOptions) -> TextProcessor {
    let template = TEMPLATE.replace("<tool_call>", "(tools)");
    let files = files(&[
        ("tokenizer.json", byte_level_with(marks)),
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>", "chat_template": template})),
        ("config.json", json!({"model_type": "acme"})),
    ]);
    TextProcessor::load(&files, options).expect("it loads")
}

/// A byte-level processor that shows nothing of how its model might call tools.
pub(crate) fn load_without_calls() -> TextProcessor {
    let tokenizer = byte_level_with(&[]).to_string().replace("tool_call", "other_mark");
    let files = files(&[
        ("tokenizer.json", tokenizer.into()),
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>", "chat_template": "{{ messages }}"})),
        ("config.json", json!({"model_type": "acme"})),
    ]);
    TextProcessor::load(&files, &TextOptions::default()).expect("it loads")
}

impl TextProcessor {
    /// The ids of a text.
    pub(crate) fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).expect("it encodes")
    }

    /// The text of ids, special tokens included.
    pub(crate) fn told(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, false)
    }
}

fn metaspace_json() -> Value {
    let mut words: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    words.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    words.extend(["▁", "▁▁", "a", "b", "▁a", "ab", "é", "\n", "▁ab"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "added_tokens": added(0, &[("<unk>", true), ("<s>", true), ("</s>", true)]),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["▁ ▁", "▁ a", "a b", "▁a b"], "unk_token": "<unk>",
                  "fuse_unk": true, "byte_fallback": true},
    })
}

fn byte_level_processor() -> Arc<TextProcessor> {
    Arc::new(load_byte_level(&TextOptions::default()).expect("it loads"))
}

fn load_byte_level(options: &TextOptions) -> Result<TextProcessor, LoadError> {
    let files = files(&[
        ("tokenizer.json", byte_level_json()),
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE})),
        ("config.json", json!({"model_type": "qwen3"})),
    ]);
    TextProcessor::load(&files, options)
}

pub(crate) fn metaspace_processor() -> Arc<TextProcessor> {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    let files = files(&[("tokenizer.json", metaspace_json()), ("tokenizer_config.json", config)]);
    Arc::new(TextProcessor::load(&files, &TextOptions::default()).expect("it loads"))
}

pub(crate) fn params(processor: &TextProcessor, options: &SamplingOptions) -> SamplingParams {
    let limits = ResolveLimits {
        num_prompt_tokens: 1,
        max_model_len: 1 << 20,
        vocab_size: processor.vocab_size(),
        random_seed: 0,
    };
    SamplingParams::resolve(options, processor.generation_defaults(), None, limits).expect("valid options")
}

/// Streams ids; every piece must be of whole characters.
fn detokenize(processor: &Arc<TextProcessor>, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut detokenizer = Detokenizer::new(
        Arc::clone(processor),
        &SamplingParams { skip_special_tokens, ..SamplingParams::default() },
        Vec::new(),
    );
    let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

proptest! {
    #[test]
    fn streamed_byte_level_text_is_the_decoding_of_the_whole(ids in proptest::collection::vec(0..280_u32, 0..30), skip in any::<bool>()) {
        let processor = byte_level_processor();
        prop_assert_eq!(detokenize(&processor, &ids, skip), processor.tokenizer.decode(&ids, skip));
    }

    #[test]
    fn streamed_metaspace_text_is_the_decoding_of_the_whole(
        ids in proptest::collection::vec(prop_oneof![0..275_u32, 198..206_u32, Just(198 + 3), 258..269_u32], 0..30),
        skip in any::<bool>(),
    ) {
        let processor = metaspace_processor();
        prop_assert_eq!(detokenize(&processor, &ids, skip), processor.tokenizer.decode(&ids, skip));
    }

    #[test]
    fn text_survives_tokens_and_back(text in "[a-cé😀▁ \n]{1,30}") {
        let processor = byte_level_processor();
        let ids = processor.tokenizer.encode(&text, false).expect("it encodes");
        prop_assert_eq!(detokenize(&processor, &ids, false), text);
    }
}

#[test]
fn a_character_of_several_tokens_is_told_whole() {
    let processor = byte_level_processor();
    let ids = processor.tokenizer.encode("é中", false).expect("it encodes");
    let mut detokenizer = Detokenizer::new(Arc::clone(&processor), &SamplingParams::default(), Vec::new());
    let pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id)).collect();
    assert_eq!(pieces, ["é", "", "", "中"]);
}

#[test]
fn token_bytes_are_exact_in_both_vocabularies() {
    let processor = byte_level_processor();
    let bytes = |processor: &TextProcessor, token: &str| {
        let id = processor.tokenizer.id(token).expect("a token");
        let told = processor.token_logprob(id, None);
        (told.text, told.bytes)
    };
    assert_eq!(bytes(&processor, "Ġth"), (" th".into(), b" th".into()));
    assert_eq!(bytes(&processor, "ðŁ"), ("\u{FFFD}".into(), vec![0xF0, 0x9F]));
    assert_eq!(bytes(&processor, "<|im_end|>").0, "<|im_end|>");
    let processor = metaspace_processor();
    assert_eq!(bytes(&processor, "▁ab"), (" ab".into(), b" ab".into()));
    assert_eq!(bytes(&processor, "<0xE4>"), ("\u{FFFD}".into(), vec![0xE4]));
}

fn chat(text: &str) -> ChatPrompt {
    ChatPrompt {
        messages: vec![Message {
            role: "user".into(),
            content: Some(Content::Text(text.into())),
            ..Message::default()
        }],
        parallel_tool_calls: true,
        add_generation_prompt: true,
        ..ChatPrompt::default()
    }
}

/// What a choice tells, given the text that the model writes; tokens one by one, or in the largest pieces.
fn answer(prompt: &ChatPrompt, written: &str, stop: &[&str]) -> (Vec<Delta>, OutputStream) {
    answer_of(&byte_level_processor(), prompt, written, stop)
}

fn answer_of(
    processor: &Arc<TextProcessor>,
    prompt: &ChatPrompt,
    written: &str,
    stop: &[&str],
) -> (Vec<Delta>, OutputStream) {
    let prepared = processor.prepare(&Prompt::Chat(prompt.clone())).expect("it renders");
    let options = SamplingOptions {
        stop: stop.iter().map(|stop| stop.to_string()).collect(),
        ..SamplingOptions::default()
    };
    let mut stream = OutputStream::new(Arc::clone(processor), &prepared, &params(processor, &options));
    let ids = processor.tokenizer.encode(written, false).expect("it encodes");
    let mut deltas: Vec<Delta> = ids.into_iter().flat_map(|id| stream.push(id).deltas).collect();
    deltas.extend(stream.finish());
    (deltas, stream)
}

fn joined(deltas: &[Delta]) -> (String, String, String) {
    let mut all = (String::new(), String::new(), String::new());
    for delta in deltas {
        match delta {
            Delta::Text(text) => all.0 += text,
            Delta::Reasoning(text) => all.1 += text,
            Delta::ToolCall { name, .. } => all.2 += &format!("{name}="),
            Delta::ToolArguments { fragment, .. } => all.2 += fragment,
        }
    }
    all
}

#[test]
fn reasoning_and_tool_calls_are_told_apart_even_where_their_tags_are_special_tokens() {
    let prompt = ChatPrompt { tools: vec![json!({})], ..chat("Hi") };
    let written = "<think>\nHm.\n</think>\n\nWell:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"é\": 1}}\n</tool_call><|im_end|>";
    let (deltas, stream) = answer(&prompt, written, &[]);
    assert_eq!(joined(&deltas), ("Well:".into(), "Hm.".into(), "f={\"é\": 1}".into()));
    assert!(stream.has_tool_calls());
    // `\n`, `H`, `m`, `.`, `\n`
    assert_eq!(stream.num_reasoning_tokens(), 5);
    assert!(deltas.iter().all(|delta| !delta.is_empty()));
}

#[test]
fn a_prompt_may_end_within_reasoning() {
    let mut prompt = chat("Hi");
    prompt.template_kwargs.insert("think".into(), json!(true));
    let (deltas, stream) = answer(&prompt, "\nHm</think>Yes", &[]);
    assert_eq!(joined(&deltas), ("Yes".into(), "Hm".into(), String::new()));
    assert_eq!(stream.num_reasoning_tokens(), 3);
    // A user who writes the tag opens nothing.
    assert_eq!(joined(&answer(&chat("what is <think>"), "A tag", &[]).0).0, "A tag");
}

#[test]
fn tool_calls_are_text_unless_tools_may_be_called() {
    let written = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let without = answer(&chat("Hi"), written, &[]).0;
    assert!(joined(&without).2.is_empty());
    let none = ChatPrompt { tools: vec![json!({})], tool_choice: ToolChoice::None, ..chat("Hi") };
    assert!(joined(&answer(&none, written, &[]).0).2.is_empty());
    let single = ChatPrompt { tools: vec![json!({})], parallel_tool_calls: false, ..chat("Hi") };
    assert_eq!(joined(&answer(&single, &written.repeat(2), &[]).0).2, "f={}");
}

#[test]
fn a_tool_call_parser_may_be_named() {
    let named = |name: &str| {
        load_byte_level(&TextOptions { tool_call_parser: Some(name.into()), ..TextOptions::default() })
    };
    let processor = Arc::new(named("glm45").expect("it is known"));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    let prompt = ChatPrompt { tools: vec![tool], ..chat("Hi") };
    let written = "So:\n<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call><|im_end|>";
    let (deltas, _) = answer_of(&processor, &prompt, written, &[]);
    assert_eq!(joined(&deltas), ("So:".into(), String::new(), "f={\"n\": 3}".into()));

    let error = named("glm").err().expect("it is not known").to_string();
    assert!(error.contains("`glm`") && error.contains("glm45") && error.contains("hermes"), "{error}");
}

#[test]
fn an_effort_turns_reasoning_on_and_off_where_the_template_has_a_switch() {
    let options = TextOptions {
        chat_template: Some("{{ enable_thinking }} {{ thinking }} {{ reasoning_effort }}".into()),
        template_kwargs: [("enable_thinking".to_owned(), json!(false))].into_iter().collect(),
        ..TextOptions::default()
    };
    let processor = load_byte_level(&options).expect("it loads");
    let rendered = |kwargs: Value| {
        let kwargs = kwargs.as_object().cloned().expect("an object");
        let prompt = ChatPrompt { template_kwargs: kwargs, ..chat("Hi") };
        processor.prepare(&Prompt::Chat(prompt)).expect("it renders").text
    };
    assert_eq!(rendered(json!({"reasoning_effort": "low"})), "True True low");
    assert_eq!(rendered(json!({"reasoning_effort": "none"})), "False False none");
    assert_eq!(rendered(json!({"reasoning_effort": "none", "thinking": true})), "False True none");
    assert_eq!(rendered(json!({})), "False  ");
}

#[test]
fn text_and_tokens_are_told_as_they_are_asked() {
    let processor = byte_level_processor();
    let ask = |task: TextTask| processor.answer(&task);
    let task = |prompt: Prompt| TextTask::Encode { prompt, add_special_tokens: false };
    let Ok(TextOutput::Encoded(tokens)) =
        ask(task(Prompt::Text { text: "hi<|im_end|>".into(), add_special_tokens: true }))
    else {
        panic!("tokens")
    };
    let (ids, spelled): (Vec<u32>, Vec<String>) = tokens.into_iter().unzip();
    assert_eq!(spelled, ["h", "i", "<|im_end|>"]);
    let decode = |lists: Vec<Vec<u32>>, skip| {
        ask(TextTask::Decode { lists, skip_special_tokens: skip, param: "tokens".into() })
    };
    let texts =
        |texts: &[&str]| Ok(TextOutput::Decoded(texts.iter().map(|text| (*text).to_owned()).collect()));
    assert_eq!(decode(vec![ids.clone(), vec![]], false), texts(&["hi<|im_end|>", ""]));
    assert_eq!(decode(vec![ids], true), texts(&["hi"]));
    let failure = decode(vec![vec![1_000_000]], false).expect_err("there is no such token");
    assert_eq!(failure.param.as_deref(), Some("tokens"));

    let locate = TextTask::Locate { texts: vec!["hé<|im_end|>".into()], add_special_tokens: true };
    let Ok(TextOutput::Located(located)) = ask(locate) else { panic!("places") };
    let spans: Vec<_> = located[0].iter().map(|token| (token.text.as_str(), token.span)).collect();
    assert_eq!(spans[0], ("h", Some((0, 1))));
    assert_eq!(spans.last(), Some(&("<|im_end|>", Some((2, 12)))));
    assert!(spans[1..spans.len() - 1].iter().all(|token| *token == ("é", Some((1, 2)))), "{spans:?}");
    let chat = ask(task(Prompt::Chat(chat("Hi")))).expect("it renders");
    assert!(matches!(chat, TextOutput::Encoded(tokens) if tokens.len() > 2));
}

#[test]
fn a_response_template_reads_the_answer() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/templates/responses.json");
    let fixture = std::fs::read(fixture).expect("the fixture is there");
    let fixture: Value = serde_json::from_slice(&fixture).expect("JSON");
    let template = |index: usize| fixture["families"][index]["template"].clone();
    let answered = |template: Value, written: &str| {
        let chat_template = "<|im_start|>assistant\n<think>\n{{ messages }}";
        let config = json!({"chat_template": chat_template, "response_template": template});
        let files = files(&[("tokenizer.json", byte_level_json()), ("tokenizer_config.json", config)]);
        let processor = Arc::new(TextProcessor::load(&files, &TextOptions::default()).expect("it loads"));
        let prompt = ChatPrompt { tools: vec![json!({})], ..chat("Hi") };
        let (deltas, stream) = answer_of(&processor, &prompt, written, &[]);
        (joined(&deltas), stream.num_reasoning_tokens())
    };
    let xml = "Hm</think>\n<tool_call><function=f><parameter=a>\n1\n</parameter></function></tool_call>\n<|im_end|>";
    let (told, num_reasoning_tokens) = answered(template(1), xml);
    assert_eq!(told, (String::new(), "Hm".into(), "f={\"a\": \"1\"}".into()));
    assert_eq!(num_reasoning_tokens, 2);
    // One that cannot be used still shows what the model writes.
    let mut broken = template(1);
    broken["version"] = json!(2);
    let told = answered(broken, &format!("<think>{xml}")).0;
    assert_eq!(told, (String::new(), "Hm".into(), "f={\"a\": \"1\"}".into()));
}

#[test]
fn a_stop_string_ends_reasoning_and_answer_alike() {
    assert_eq!(
        joined(&answer(&chat("Hi"), "<think>one two", &[" t"]).0),
        (String::new(), "one".into(), String::new())
    );
    let (deltas, mut stream) = answer(&chat("Hi"), "one END two", &["END"]);
    assert_eq!(joined(&deltas).0, "one ");
    assert_eq!(stream.push(0), OutputStep::default());
}

#[test]
fn prompts_without_tokens_are_refused() {
    let processor = byte_level_processor();
    let refused = |prompt: Prompt| processor.prepare(&prompt).expect_err("it is refused");
    assert_eq!(
        refused(Prompt::Text { text: String::new(), add_special_tokens: true }).param.as_deref(),
        Some("prompt")
    );
    assert_eq!(refused(Prompt::Tokens(Vec::new())).param.as_deref(), Some("prompt"));
    assert_eq!(refused(Prompt::Chat(ChatPrompt::default())).param.as_deref(), Some("messages"));
    assert!(refused(Prompt::Tokens(vec![1, 9999])).message.contains("9999"));
    // With a first token an empty prompt is one.
    let prompt =
        metaspace_processor().prepare(&Prompt::Text { text: String::new(), add_special_tokens: true });
    assert_eq!(prompt.expect("the first token").token_ids.to_vec(), [1]);
}

#[test]
fn a_gap_is_filled_where_the_model_has_the_tokens() {
    let infill = Prompt::Infill { prefix: "a".into(), suffix: "b".into() };
    let processor = byte_level_processor();
    let prompt = processor.prepare(&infill).expect("the model has the tokens");
    assert_eq!(
        processor.tokenizer.decode(&prompt.token_ids, false),
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    );
    assert_eq!(prompt.text, "a");
    let failure = metaspace_processor().prepare(&infill).expect_err("it has not");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::Unsupported, Some("suffix")));
}

#[test]
fn a_model_without_a_template_says_how_to_give_it_one() {
    let failure = metaspace_processor().prepare(&Prompt::Chat(chat("Hi"))).expect_err("there is no template");
    assert!(failure.message.contains("--chat-template"), "{failure}");
    let options =
        TextOptions { chat_template: Some("{{ messages[0].content }}".into()), ..TextOptions::default() };
    let files = files(&[("tokenizer.json", metaspace_json())]);
    let processor = TextProcessor::load(&files, &options).expect("it loads");
    assert_eq!(processor.prepare(&Prompt::Chat(chat("ab"))).expect("there is one now").text, "ab");
}

#[test]
fn a_repository_without_a_tokenizer_says_what_it_needs() {
    let files = files(&[("vocab.json", json!({})), ("merges.txt", json!("#"))]);
    let error = TextProcessor::load(&files, &TextOptions::default()).err().expect("there is no tokenizer");
    let message = error.to_string();
    assert!(message.contains("tokenizer.json") && message.contains("vocab.json, merges.txt"), "{message}");
}

#[test]
fn end_tokens_are_the_tokenizer_s_where_no_config_names_them() {
    let processor = byte_level_processor();
    let end = processor.tokenizer.id("<|im_end|>").expect("a token");
    assert_eq!(processor.generation_defaults().eos_token_ids, [end]);
}
