//! Requests: what they become, and which path a fault names.

use candlewick_protocol::{
    AllowedMode, Content, ErrorKind, GenerationRequest, Prompt, PromptTruncation, RequestId, Search,
    ToolChoice, TruncationSide,
};
use serde_json::{Map, Value, json};

use super::{read_chat, read_completions};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;
use crate::wire::error::Fault;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("requests are objects").clone()
}

pub fn chat(more: Value) -> Result<GenerationRequest, ApiError> {
    let mut body = object(json!({"model": "acme/m", "messages": [{"role": "user", "content": "hi"}]}));
    body.extend(object(more));
    read_chat(body, Sender::unknown(RequestId::from("id")), &ApiSettings::default())
        .map(|call| call.generation)
}

pub fn completions(more: Value) -> Result<Vec<GenerationRequest>, ApiError> {
    let mut body = object(json!({"model": "acme/m", "prompt": "Once"}));
    body.extend(object(more));
    read_completions(body, Sender::unknown(RequestId::from("id")), &ApiSettings::default())
        .map(|call| call.generations)
}

#[track_caller]
pub fn assert_fault<T: std::fmt::Debug>(outcome: Result<T, ApiError>, fault: Fault, param: &str) {
    let error = outcome.expect_err("the request is wrong");
    assert_eq!((error.fault, error.param.as_deref()), (fault, Some(param)), "{}", error.message);
    assert!(error.message.contains(|c: char| c.is_alphabetic()) && !error.message.ends_with('.'));
}

pub const INVALID: Fault = Fault::Kind(ErrorKind::InvalidRequest);
pub const UNSUPPORTED: Fault = Fault::Kind(ErrorKind::Unsupported);
pub const MISSING: Fault = Fault::MissingParameter;

#[test]
fn a_fault_in_a_message_names_its_path() {
    let messages = |messages: Value| chat(json!({"messages": messages}));
    assert_fault(messages(Value::Null), MISSING, "messages");
    assert_fault(messages(json!([])), INVALID, "messages");
    assert_fault(messages(json!("hi")), INVALID, "messages");
    assert_fault(messages(json!(["hi"])), INVALID, "messages.0");
    assert_fault(messages(json!([{"content": "hi"}])), MISSING, "messages.0.role");
    assert_fault(messages(json!([{"role": "wizard", "content": "hi"}])), INVALID, "messages.0.role");
    assert_fault(messages(json!([{"role": "user"}])), MISSING, "messages.0.content");
    assert_fault(messages(json!([{"role": "user", "content": null}])), MISSING, "messages.0.content");
    assert_fault(messages(json!([{"role": "user", "content": 5}])), INVALID, "messages.0.content");
    assert_fault(messages(json!([{"role": "tool", "content": "42"}])), MISSING, "messages.0.tool_call_id");
    let part =
        |part: Value| messages(json!([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]));
    assert_fault(part(json!({"text": "b"})), MISSING, "messages.0.content.1.type");
    assert_fault(part(json!({"type": "smell"})), INVALID, "messages.0.content.1.type");
    assert_fault(part(json!({"type": "text"})), MISSING, "messages.0.content.1.text");
    for media in ["image_url", "input_image", "input_audio", "audio_url", "video_url", "file"] {
        assert_fault(part(json!({"type": media})), UNSUPPORTED, "messages.0.content.1.type");
    }
}

#[test]
fn earlier_calls_are_decoded() {
    let call = |arguments: Value| {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        chat(json!({"messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": [call], "reasoning": "because"},
            {"role": "tool", "tool_call_id": "c1", "content": "42", "name": "f"},
        ]}))
    };
    let Prompt::Chat(prompt) = call(json!("{\"a\": 1}")).expect("it is good").prompt else {
        panic!("a chat")
    };
    assert_eq!(prompt.messages[1].tool_calls[0].arguments, json!({"a": 1}));
    assert_eq!(prompt.messages[1].reasoning_content.as_deref(), Some("because"));
    assert_eq!(prompt.messages[2].tool_call_id.as_deref(), Some("c1"));
    assert_eq!(prompt.messages[2].name.as_deref(), Some("f"));
    assert_fault(call(json!("{\"a\": ")), INVALID, "messages.1.tool_calls.0.function.arguments");
    assert_fault(call(json!(5)), INVALID, "messages.1.tool_calls.0.function.arguments");
}

#[test]
fn an_assistant_message_may_have_null_or_no_tool_calls_and_refusals() {
    let message = json!({"role": "assistant", "content": "hello", "tool_calls": null});
    let refusal =
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []});
    let request = chat(json!({"messages": [message, refusal]})).expect("it is good");
    let Prompt::Chat(prompt) = request.prompt else { panic!("a chat") };
    assert_eq!(prompt.messages[0].content, Some(Content::Text("hello".to_owned())));
    assert!(prompt.messages[1].tool_calls.is_empty());
}

#[test]
fn sampling_is_read_and_its_ranges_hold() {
    let request = chat(json!({
        "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "seed": 7, "stop": "###", "max_tokens": 5,
        "max_completion_tokens": 9.0, "logit_bias": {"5": 1, "6": -200.5}, "stop_token_ids": [3], "ignore_eos": true,
        "frequency_penalty": null, "repetition_penalty": 1.1, "min_tokens": 2,
    }));
    let sampling = request.expect("it is good").sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.0), Some(0.5), Some(-1)));
    assert_eq!((sampling.max_tokens, sampling.seed), (Some(9), Some(7)), "the newer limit wins");
    assert_eq!(sampling.stop, ["###"]);
    assert_eq!(sampling.logit_bias.into_iter().collect::<Vec<_>>(), [(5, 1.0), (6, -100.0)]);
    assert_eq!(sampling.frequency_penalty, None);

    for (field, value) in [
        ("temperature", json!("hot")),
        ("temperature", json!(2.1)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(0)),
        ("top_k", json!(-2)),
        ("min_p", json!(1.5)),
        ("presence_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(1.5)),
        ("max_completion_tokens", json!("2")),
        ("n", json!(0)),
        ("n", json!(129)),
        ("seed", json!(1.5)),
        ("stop", json!(5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stream", json!("false")),
        ("user", json!(5)),
        ("priority", json!("high")),
        ("chat_template_kwargs", json!("{}")),
        ("reasoning_effort", json!("frantic")),
        ("generation_config", json!(5)),
        ("generation_config", json!("{")),
    ] {
        assert_fault(chat(json!({field: value})), INVALID, field);
    }
    assert_fault(chat(json!({"stop": ["a", ""]})), INVALID, "stop.1");
    assert_fault(chat(json!({"logit_bias": {"x": 1}})), INVALID, "logit_bias.x");
    assert_fault(chat(json!({"stop_token_ids": [1, -1]})), INVALID, "stop_token_ids.1");
    assert_fault(chat(json!({"min_tokens": 9, "max_tokens": 5})), INVALID, "min_tokens");
}

#[test]
fn generation_config_fills_what_the_request_leaves_open() {
    let config = json!({"max_new_tokens": 50, "temperature": 0.3, "do_sample": true}).to_string();
    let sampling =
        chat(json!({"generation_config": config, "temperature": 0.9})).expect("it is good").sampling;
    assert_eq!((sampling.max_tokens, sampling.temperature), (Some(50), Some(0.9)));
    let request = completions(json!({"generation_config": config})).expect("it is good");
    assert_eq!(request[0].sampling.max_tokens, Some(50));
}

#[test]
fn what_is_known_and_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "alloy"})),
        ("vllm_xargs", json!({"a": 1})),
        ("kv_transfer_params", json!({"a": 1})),
        ("chat_template", json!("{{ messages }}")),
    ] {
        assert_fault(chat(json!({field: value})), UNSUPPORTED, field);
    }
    chat(json!({"response_format": {"type": "text"}, "modalities": ["text"], "use_beam_search": false, "best_of": 1,
        "guided_json": null, "verbosity": "medium"}))
    .expect("asking for nothing is no fault");
    chat(json!({"never_heard_of": 1})).expect("unknown fields are ignored");
}

#[test]
fn what_limits_the_choice_of_tokens_is_read() {
    let request = chat(json!({
        "typical_p": 0.9, "no_repeat_ngram_size": 3, "allowed_token_ids": [1, 2], "bad_words": ["a", " b"],
        "thinking_token_budget": 40, "spaces_between_special_tokens": false,
        "repetition_detection": {"max_pattern_size": 8, "min_pattern_size": 2, "min_count": 3},
    }));
    let sampling = request.expect("it is good").sampling;
    assert_eq!((sampling.typical_p, sampling.no_repeat_ngram_size), (Some(0.9), Some(3)));
    assert_eq!((sampling.allowed_token_ids, sampling.bad_words), (vec![1, 2], vec!["a".into(), " b".into()]));
    assert_eq!(sampling.thinking_token_budget, Some(40));
    assert_eq!(sampling.spaces_between_special_tokens, Some(false));
    assert_eq!(sampling.repetition_detection.expect("it was sent").min_count, 3);
    assert_eq!(
        chat(json!({"thinking_token_budget": -1})).expect("good").sampling.thinking_token_budget,
        None
    );
    for (field, value) in [
        ("typical_p", json!(0)),
        ("typical_p", json!(1.5)),
        ("no_repeat_ngram_size", json!(-1)),
        ("allowed_token_ids", json!([])),
        ("bad_words", json!(vec!["x"; 129])),
        ("thinking_token_budget", json!(-2)),
    ] {
        assert_fault(chat(json!({field: value})), INVALID, field);
    }
    assert_fault(chat(json!({"bad_words": ["a", " "]})), INVALID, "bad_words.1");
    let pattern = json!({"repetition_detection": {"max_pattern_size": -1}});
    assert_fault(chat(pattern), INVALID, "repetition_detection.max_pattern_size");
}

#[test]
fn how_choices_are_found_is_read_and_what_is_chosen_among_many_is_not_streamed() {
    let search =
        |more| chat(more).map(|request| (request.num_choices, request.search, request.num_sequences()));
    assert_eq!(search(json!({"n": 2})).expect("good"), (2, Search::Sample, 2));
    assert_eq!(search(json!({"n": 2, "best_of": 2})).expect("good"), (2, Search::Sample, 2));
    assert_eq!(
        search(json!({"n": 2, "best_of": 5})).expect("good"),
        (2, Search::BestOf { num_candidates: 5 }, 5)
    );
    let beam = search(json!({"n": 4, "use_beam_search": true, "length_penalty": 0.5})).expect("good");
    assert_eq!(beam, (4, Search::Beam { length_penalty: 0.5 }, 4));
    assert_fault(search(json!({"n": 3, "best_of": 2})), INVALID, "best_of");
    assert_fault(search(json!({"best_of": 3, "stream": true})), INVALID, "best_of");
    assert_fault(search(json!({"best_of": 3, "use_beam_search": true})), INVALID, "best_of");
    assert_fault(search(json!({"use_beam_search": true, "stream": true})), INVALID, "use_beam_search");
    assert_fault(search(json!({"length_penalty": 0.5})), INVALID, "length_penalty");
    search(json!({"length_penalty": 1, "use_beam_search": false, "stream": true})).expect("nothing is asked");
}

#[test]
fn what_is_told_and_kept_of_the_prompt_is_read() {
    let request = chat(json!({
        "prompt_logprobs": 3, "logprob_token_ids": [7], "logprobs": true, "return_prompt_text": true,
        "return_token_ids": true, "stream_interval": 4, "truncate_prompt_tokens": 9, "truncation_side": "right",
        "cache_salt": "tenant-1", "add_special_tokens": true,
    }))
    .expect("it is good");
    let output = request.output;
    assert_eq!((output.prompt_logprobs, output.stream_interval), (Some(3), 4));
    assert!(output.prompt_text && output.token_ids && output.logprob_token_ids == [7]);
    let truncation = PromptTruncation { num_tokens: Some(9), side: TruncationSide::Right };
    assert_eq!((request.truncation, request.cache_salt.as_deref()), (Some(truncation), Some("tenant-1")));
    let Prompt::Chat(prompt) = request.prompt else { panic!("a chat") };
    assert!(prompt.add_special_tokens);

    let all = |more| chat(more).expect("it is good");
    assert_eq!(all(json!({"prompt_logprobs": -1})).output.prompt_logprobs, Some(20), "the server's limit");
    assert_eq!(all(json!({"logprobs": true, "top_logprobs": -1})).output.logprobs, Some(20));
    let model_limit = Some(PromptTruncation { num_tokens: None, side: TruncationSide::Left });
    assert_eq!(all(json!({"truncate_prompt_tokens": -1})).truncation, model_limit);
    for (field, value) in [
        ("prompt_logprobs", json!(21)),
        ("prompt_logprobs", json!(-2)),
        ("truncate_prompt_tokens", json!(0)),
        ("truncate_prompt_tokens", json!(-2)),
        ("truncation_side", json!("middle")),
        ("stream_interval", json!(0)),
        ("cache_salt", json!("")),
        ("cache_salt", json!("a/b")),
        ("cache_salt", json!("x".repeat(129))),
    ] {
        assert_fault(chat(json!({field: value})), INVALID, field);
    }
    assert_fault(chat(json!({"prompt_logprobs": 1, "stream": true})), INVALID, "prompt_logprobs");
}

#[test]
fn a_server_can_be_told_to_trust_and_to_be_strict() {
    let settings =
        ApiSettings { trust_request_chat_template: true, strict_fields: true, ..ApiSettings::default() };
    let read = |more: Value| {
        let mut body = object(json!({"model": "acme/m", "messages": [{"role": "user", "content": "hi"}]}));
        body.extend(object(more));
        read_chat(body, Sender::unknown(RequestId::from("id")), &settings).map(|call| call.generation)
    };
    let Prompt::Chat(prompt) = read(json!({"chat_template": "{{ messages }}"})).expect("good").prompt else {
        panic!("a chat")
    };
    assert_eq!(prompt.chat_template.as_deref(), Some("{{ messages }}"));
    assert_fault(read(json!({"temprature": 1})), Fault::UnknownParameter, "temprature");
}

#[test]
fn harmless_fields_are_checked_and_taken() {
    chat(json!({"user": "u", "metadata": {"k": "v"}, "store": true, "service_tier": "auto", "safety_identifier": "s",
        "prompt_cache_key": "p", "priority": -3, "parallel_tool_calls": true}))
    .expect("it is good");
    assert_fault(chat(json!({"metadata": {"k": 1}})), INVALID, "metadata.k");
    assert_fault(chat(json!({"service_tier": "gold"})), INVALID, "service_tier");
    assert_fault(chat(json!({"stream_options": {"include_usage": true}})), INVALID, "stream_options");
    chat(json!({"stream_options": null})).expect("null is absent");
}

#[test]
fn logprobs_keep_to_their_rules() {
    assert_eq!(chat(json!({"logprobs": true})).expect("good").output.logprobs, Some(0));
    assert_eq!(chat(json!({"logprobs": true, "top_logprobs": 5})).expect("good").output.logprobs, Some(5));
    assert_eq!(chat(json!({"top_logprobs": 0})).expect("good").output.logprobs, None);
    assert_fault(chat(json!({"top_logprobs": 5})), INVALID, "top_logprobs");
    assert_fault(chat(json!({"logprobs": true, "top_logprobs": 21})), INVALID, "top_logprobs");
    assert_eq!(completions(json!({"logprobs": 0})).expect("good")[0].output.logprobs, Some(0));
    assert_fault(completions(json!({"logprobs": true})), INVALID, "logprobs");
}

#[test]
fn tools_are_checked_and_the_choice_must_fit_them() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    let choice = |choice: Value| chat(json!({"tools": [tool("f")], "tool_choice": choice}));
    let prompt = |request: GenerationRequest| match request.prompt {
        Prompt::Chat(prompt) => prompt,
        other => panic!("a chat, not {other:?}"),
    };
    assert_eq!(prompt(choice(json!("auto")).expect("good")).tools, [tool("f")]);
    assert_eq!(prompt(choice(json!("none")).expect("good")).tool_choice, ToolChoice::None);
    assert_eq!(prompt(choice(json!("required")).expect("good")).tool_choice, ToolChoice::Required);
    let named = choice(json!({"type": "function", "function": {"name": "f"}}));
    assert_eq!(prompt(named.expect("good")).tool_choice, ToolChoice::Function("f".to_owned()));
    let named = json!({"type": "function", "function": {"name": "g"}});
    assert_fault(choice(named), INVALID, "tool_choice.function.name");
    assert_fault(choice(json!({"type": "custom", "custom": {"name": "f"}})), UNSUPPORTED, "tool_choice.type");
    assert_fault(choice(json!("perhaps")), INVALID, "tool_choice");
    assert_fault(chat(json!({"tool_choice": "auto"})), INVALID, "tool_choice");
    chat(json!({"tool_choice": "none"})).expect("none needs no tools");
    chat(json!({"tools": [], "tool_choice": "auto"})).expect("an empty list is none");
    assert_fault(chat(json!({"tools": [tool("two words")]})), INVALID, "tools.0.function.name");
    assert_fault(chat(json!({"tools": [tool("f"), {"type": "function"}]})), MISSING, "tools.1.function");
    assert_fault(chat(json!({"tools": [{"function": {"name": "f"}}]})), MISSING, "tools.0.type");
    let custom = chat(json!({"tools": [{"type": "custom", "custom": {"name": "shell"}}]}));
    assert!(custom.as_ref().expect_err("there are none").message.contains("\"shell\""));
    assert_fault(custom, UNSUPPORTED, "tools.0.type");
    let old = prompt(chat(json!({"functions": [{"name": "f"}], "function_call": "auto"})).expect("good"));
    assert_eq!(old.tools, [json!({"type": "function", "function": {"name": "f"}})]);
    assert!(!old.parallel_tool_calls, "the older form holds one call");
}

#[test]
fn allowed_tools_are_some_of_the_tools() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let choice = |allowed: Value| {
        let choice = json!({"type": "allowed_tools", "allowed_tools": allowed});
        chat(json!({"tools": [tool("f"), tool("g")], "tool_choice": choice}))
    };
    let Prompt::Chat(prompt) = choice(json!({"mode": "auto", "tools": [tool("g")]})).expect("good").prompt
    else {
        panic!("a chat")
    };
    assert_eq!(prompt.tools.len(), 2, "the model is shown all of them");
    let allowed = ToolChoice::Allowed { mode: AllowedMode::Auto, names: vec!["g".to_owned()] };
    assert_eq!(prompt.tool_choice, allowed);
    let path = "tool_choice.allowed_tools";
    assert_fault(choice(json!({"mode": "auto"})), MISSING, &format!("{path}.tools"));
    assert_fault(choice(json!({"mode": "auto", "tools": []})), INVALID, &format!("{path}.tools"));
    assert_fault(
        choice(json!({"mode": "auto", "tools": [tool("h")]})),
        INVALID,
        &format!("{path}.tools.0.function.name"),
    );
    assert_fault(choice(json!({"tools": [tool("f")]})), MISSING, &format!("{path}.mode"));
}

#[test]
fn the_older_form_of_a_call_is_a_call() {
    let messages = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}},
        {"role": "function", "name": "f", "content": "sunny"},
    ]);
    let Prompt::Chat(prompt) = chat(json!({"messages": messages})).expect("good").prompt else {
        panic!("a chat")
    };
    let [_, asked, answered] = prompt.messages.as_slice() else { panic!("three messages") };
    assert_eq!((asked.tool_calls[0].name.as_str(), &asked.tool_calls[0].arguments), ("f", &json!({"a": 1})));
    assert_eq!(answered.role, "tool");
    assert_eq!(answered.tool_call_id.as_deref(), Some(asked.tool_calls[0].id.as_str()));
    assert_fault(
        chat(json!({"messages": [{"role": "function", "content": "x"}]})),
        MISSING,
        "messages.0.name",
    );
}

#[test]
fn effort_and_turns_reach_the_template() {
    let prompt = |more| match chat(more).expect("good").prompt {
        Prompt::Chat(prompt) => prompt,
        other => panic!("a chat, not {other:?}"),
    };
    let kwargs =
        prompt(json!({"reasoning_effort": "none", "chat_template_kwargs": {"a": 1}})).template_kwargs;
    assert_eq!(Value::from(kwargs), json!({"reasoning_effort": "none", "enable_thinking": false, "a": 1}));
    let kwargs = prompt(json!({"reasoning_effort": "hard"})).template_kwargs;
    assert_eq!(kwargs["reasoning_effort"], "high");
    let kwargs =
        prompt(json!({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true}}))
            .template_kwargs;
    assert_eq!(kwargs["enable_thinking"], true);

    assert!(prompt(json!({})).add_generation_prompt);
    assert!(!prompt(json!({"continue_final_message": true})).add_generation_prompt);
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    assert_fault(chat(both), INVALID, "continue_final_message");
}

#[test]
fn prompts_come_in_four_forms() {
    let prompts = |prompt: Value| -> Vec<Prompt> {
        let requests = completions(json!({"prompt": prompt})).expect("good");
        requests.into_iter().map(|request| request.prompt).collect()
    };
    let text = |text: &str| Prompt::Text { text: text.to_owned(), add_special_tokens: true };
    assert_eq!(prompts(json!("a")), [text("a")]);
    assert_eq!(prompts(json!(["a", "b"])), [text("a"), text("b")]);
    assert_eq!(prompts(json!([1, 2])), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(prompts(json!([[1, 2], [3]])), [Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]);

    assert_fault(completions(json!({"prompt": null})), MISSING, "prompt");
    assert_fault(completions(json!({"prompt": []})), INVALID, "prompt");
    assert_fault(completions(json!({"prompt": 5})), INVALID, "prompt");
    assert_fault(completions(json!({"prompt": ["a", 5]})), INVALID, "prompt.1");
    assert_fault(completions(json!({"prompt": [1, "a"]})), INVALID, "prompt.1");
    assert_fault(completions(json!({"prompt": [[1], []]})), INVALID, "prompt.1");
    assert_fault(completions(json!({"prompt": [[1], [-1]]})), INVALID, "prompt.1.0");
    assert_fault(completions(json!({"prompt": vec!["a"; 1025]})), INVALID, "prompt");
}

#[test]
fn completions_have_their_own_limits_and_gaps() {
    let sampling = |more| completions(more).expect("good").remove(0).sampling;
    let unset = sampling(json!({}));
    assert_eq!((unset.max_tokens, unset.max_tokens_default), (None, Some(16)));
    assert_eq!(sampling(json!({"max_tokens": 40})).max_tokens, Some(40));
    assert_fault(completions(json!({"min_tokens": 17})), INVALID, "min_tokens");
    assert_fault(completions(json!({"max_tokens": 0})), INVALID, "max_tokens");
    assert_eq!(
        completions(json!({"max_tokens": 0, "echo": true})).expect("good")[0].sampling.max_tokens,
        Some(0)
    );
    let infill = completions(json!({"suffix": "end"})).expect("good").remove(0).prompt;
    assert_eq!(infill, Prompt::Infill { prefix: "Once".to_owned(), suffix: "end".to_owned() });
    assert_fault(completions(json!({"suffix": "end", "prompt": [1]})), INVALID, "suffix");
    assert_fault(completions(json!({"suffix": "end", "echo": true})), INVALID, "suffix");
}

#[test]
fn names_that_name_no_model_are_refused() {
    assert_fault(chat(json!({"model": ""})), INVALID, "model");
    assert_fault(chat(json!({"model": "a/m@"})), INVALID, "model");
    assert_fault(chat(json!({"model": 5})), INVALID, "model");
    assert_eq!(chat(json!({"model": null})).expect("the pinned one").model, None);
}

#[test]
fn values_are_quoted_in_part() {
    let long = "x".repeat(50_000);
    let filled = |key: &str| json!({key: long.as_str()});
    let tool = json!({"type": long.as_str(), "function": {"name": "f"}});
    let call = json!({"id": "c", "function": {"name": "f", "arguments": filled("a")["a"]}});
    for more in [
        json!({"messages": [{"role": long.as_str(), "content": "hi"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": long.as_str()}]}]}),
        json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}),
        json!({"tools": [tool]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": filled("name")}),
        json!({"logit_bias": {long.as_str(): 1}}),
        json!({"metadata": {long.as_str(): 1}}),
        json!({"generation_config": filled("temperature")}),
        filled("temperature"),
        filled("model"),
        filled("reasoning_effort"),
        filled("stream"),
    ] {
        let error = chat(more).expect_err("it is wrong");
        let (message, param) = (error.message, error.param.expect("a field is named"));
        assert!(message.len() < 400 && param.len() < 200, "{message} at {param}");
    }
    let error = chat(json!({"messages": [{"role": long, "content": "hi"}]})).expect_err("it is wrong");
    assert!(error.message.ends_with("xxx…\""), "{}", error.message);
}

#[test]
fn a_number_that_is_too_large_is_told_the_bound() {
    let message = |more| chat(more).expect_err("it is too large").message;
    let top_k = message(json!({"top_k": 1_000_000_000_000_u64}));
    assert_eq!(top_k, "`top_k` must be a whole number from -1 to 4294967295, not 1000000000000");
    let seed = message(json!({"seed": 1_u64 << 63}));
    assert!(seed.contains("to 9223372036854775807, not 9223372036854775808"), "{seed}");
    assert_eq!(message(json!({"top_k": -2})), "`top_k` must be a whole number of at least -1, not -2");
}

#[test]
fn an_earlier_answer_that_said_nothing_is_taken_back() {
    let empty = Some(Content::Text(String::new()));
    for more in
        [json!({}), json!({"tool_calls": null}), json!({"tool_calls": [], "refusal": null, "audio": null})]
    {
        let mut message = object(json!({"role": "assistant", "content": null}));
        message.extend(object(more));
        let Prompt::Chat(prompt) = chat(json!({"messages": [message]})).expect("it is good").prompt else {
            panic!("a chat")
        };
        assert_eq!(prompt.messages[0].content, empty);
    }
}
