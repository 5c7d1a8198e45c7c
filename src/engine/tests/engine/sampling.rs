//! Sampling parameters: what wins over what, and what is refused with which words.

use candlewick_engine::{GenerationDefaults, ResolveLimits, SamplingParams};
use candlewick_protocol::{ErrorKind, Failure, OutputOptions, RepetitionDetection, SamplingOptions};
use serde_json::{Value, json};

const LIMITS: ResolveLimits =
    ResolveLimits { num_prompt_tokens: 10, max_model_len: 100, vocab_size: 1000, random_seed: 42 };

fn resolve(change: impl FnOnce(&mut SamplingOptions), file: Value) -> Result<SamplingParams, Failure> {
    let mut options = SamplingOptions::default();
    change(&mut options);
    let defaults = GenerationDefaults::from_json(Some(&file), &json!({ "eos_token_id": 9 }));
    SamplingParams::resolve(&options, &defaults, None, LIMITS)
}

fn resolved(change: impl FnOnce(&mut SamplingOptions), file: Value) -> SamplingParams {
    resolve(change, file).expect("it is good")
}

#[track_caller]
fn check_refused(param: &str, message: &str, change: impl FnOnce(&mut SamplingOptions)) {
    let failure = resolve(change, json!({})).expect_err("it is refused");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)));
    assert_eq!(failure.message, message);
}

#[test]
fn a_request_that_says_nothing_gets_the_defaults() {
    let expected =
        SamplingParams { seed: 42, max_tokens: 90, eos_token_ids: vec![9], ..SamplingParams::default() };
    assert_eq!(resolved(|_| (), json!({})), expected);
    assert!(!expected.needs_history() && !expected.is_greedy());
}

#[test]
fn the_models_file_fills_what_the_request_leaves_open() {
    let file = json!({
        "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05, "do_sample": true,
        "max_new_tokens": 30, "stop_strings": ["END"], "eos_token_id": [7, 8, 5000],
    });
    let params = resolved(|_| (), file.clone());
    assert_eq!((params.temperature, params.top_p, params.top_k, params.min_p), (0.6, 0.95, 20, 0.1));
    assert_eq!((params.repetition_penalty, params.max_tokens), (1.05, 30));
    assert_eq!(params.stop, ["END"]);
    assert_eq!(params.eos_token_ids, [7, 8], "an id that the vocabulary does not have can never come");

    let params = resolved(
        |options| {
            (options.temperature, options.top_p, options.max_tokens) = (Some(0.2), Some(0.5), Some(80));
            (options.top_k, options.stop) = (Some(-1), vec!["STOP".into()]);
        },
        file,
    );
    assert_eq!((params.temperature, params.top_p, params.top_k, params.max_tokens), (0.2, 0.5, 0, 80));
    assert_eq!(params.stop, ["STOP"]);
}

#[test]
fn the_models_default_length_gives_way_to_the_context() {
    assert_eq!(resolved(|_| (), json!({ "max_new_tokens": 4096 })).max_tokens, 90);
    assert_eq!(resolved(|_| (), json!({ "max_new_tokens": 4096, "min_new_tokens": 95 })).min_tokens, 90);
}

#[test]
fn values_out_of_range_in_the_models_file_are_no_requests_fault() {
    let params =
        resolved(|_| (), json!({ "temperature": 7.0, "top_p": 0.0, "top_k": -5, "stop_strings": [""] }));
    assert_eq!((params.temperature, params.top_p, params.top_k), (1.0, 1.0, 0));
    assert!(params.stop.is_empty());
}

#[test]
fn end_tokens_come_from_the_first_file_that_has_some() {
    let eos = |generation: Option<Value>, config: Value| {
        GenerationDefaults::from_json(generation.as_ref(), &config).eos_token_ids
    };
    assert_eq!(eos(Some(json!({ "eos_token_id": 1 })), json!({ "eos_token_id": 2 })), [1]);
    assert_eq!(eos(Some(json!({})), json!({ "eos_token_id": [2, 3] })), [2, 3]);
    assert_eq!(eos(None, json!({ "text_config": { "eos_token_id": 4 } })), [4]);
    assert!(eos(None, json!({ "eos_token_id": null })).is_empty());
}

#[test]
fn when_sampling_is_greedy() {
    let is_greedy = |change: fn(&mut SamplingOptions), file: Value| resolved(change, file).is_greedy();
    let no_sampling = || json!({ "do_sample": false, "temperature": 0.7 });
    assert!(is_greedy(|_| (), no_sampling()));
    assert!(
        !is_greedy(|options| options.temperature = Some(0.9), no_sampling()),
        "the request's temperature wins"
    );
    assert!(
        !is_greedy(|options| options.top_p = Some(0.9), no_sampling()),
        "so does any wish about sampling"
    );
    assert!(!is_greedy(|options| options.do_sample = Some(true), no_sampling()));
    assert!(!is_greedy(|_| (), json!({})), "a file that does not say is no reason to be greedy");
    assert!(is_greedy(|options| options.do_sample = Some(false), json!({ "do_sample": true })));
    assert!(is_greedy(|options| options.temperature = Some(0.0), json!({ "do_sample": true })));
    assert!(is_greedy(|options| options.temperature = Some(0.000_009), json!({})));
}

#[test]
fn greedy_switches_the_other_filters_off() {
    let params = resolved(
        |options| {
            (options.temperature, options.top_p, options.top_k, options.min_p) =
                (Some(0.0), Some(0.5), Some(5), Some(0.2));
        },
        json!({}),
    );
    assert_eq!((params.top_p, params.top_k, params.min_p), (1.0, 0, 0.0));
}

#[test]
fn a_temperature_too_small_to_divide_by_is_raised() {
    assert_eq!(resolved(|options| options.temperature = Some(0.001), json!({})).temperature, 0.01);
}

#[test]
fn a_seed_of_minus_one_is_none() {
    assert_eq!(resolved(|options| options.seed = Some(7), json!({})).seed, 7);
    assert_eq!(resolved(|options| options.seed = Some(-1), json!({})).seed, 42);
}

#[test]
fn ignoring_the_end_tokens_leaves_the_stop_tokens() {
    let params = resolved(
        |options| {
            options.ignore_eos = true;
            options.stop_token_ids = vec![3];
        },
        json!({}),
    );
    assert!(params.eos_token_ids.is_empty());
    assert_eq!(params.stop_token_ids, [3]);
}

#[test]
fn biases_are_clamped() {
    let params = resolved(
        |options| options.logit_bias = [(1, -1000.0), (2, f32::INFINITY), (3, 1.5)].into(),
        json!({}),
    );
    assert_eq!(params.logit_bias, [(1, -100.0), (2, 100.0), (3, 1.5)].into());
}

#[test]
fn values_out_of_range_are_refused_with_what_would_be_right() {
    check_refused("temperature", "temperature is 2.1; it must be between 0 and 2", |o| {
        o.temperature = Some(2.1)
    });
    check_refused("temperature", "temperature is NaN; it must be between 0 and 2", |o| {
        o.temperature = Some(f32::NAN)
    });
    check_refused("top_p", "top_p is 0; it must be above 0 and at most 1", |o| o.top_p = Some(0.0));
    check_refused("min_p", "min_p is -0.1; it must be between 0 and 1", |o| o.min_p = Some(-0.1));
    check_refused("top_k", "top_k is -2; it must be at least 1, or 0 or -1 to keep all", |o| {
        o.top_k = Some(-2)
    });
    check_refused("frequency_penalty", "frequency_penalty is 3; it must be between -2 and 2", |o| {
        o.frequency_penalty = Some(3.0);
    });
    check_refused("presence_penalty", "presence_penalty is -3; it must be between -2 and 2", |o| {
        o.presence_penalty = Some(-3.0);
    });
    check_refused("repetition_penalty", "repetition_penalty is inf; it must be above 0 and finite", |o| {
        o.repetition_penalty = Some(f32::INFINITY);
    });
    check_refused("logit_bias", "logit_bias names token 1000; token ids of this model are below 1000", |o| {
        o.logit_bias = [(1000, 1.0)].into();
    });
    check_refused("logit_bias", "the bias of token 1 is not a number", |o| {
        o.logit_bias = [(1, f32::NAN)].into()
    });
    check_refused(
        "stop_token_ids",
        "stop_token_ids names token 1000; token ids of this model are below 1000",
        |o| {
            o.stop_token_ids = vec![1000];
        },
    );
    check_refused("stop", "there are 5 stop strings; at most 4 are possible", |o| {
        o.stop = vec!["a".into(); 5]
    });
    check_refused("stop", "a stop string is empty; it must have at least one character", |o| {
        o.stop = vec!["".into()]
    });
    check_refused("min_tokens", "min_tokens is 6; it must be at most max_tokens, which is 5", |o| {
        (o.min_tokens, o.max_tokens) = (Some(6), Some(5));
    });
}

#[test]
fn tokens_named_by_id_need_logprobs_and_are_in_the_vocabulary() {
    let report = |logprobs, logprob_token_ids: Vec<u32>| {
        let output = OutputOptions { logprob_token_ids, ..OutputOptions::default() };
        SamplingParams { logprobs, ..resolved(|_| (), json!({})) }.reporting(&output, LIMITS.vocab_size)
    };
    assert_eq!(report(Some(0), vec![3, 1]).expect("it is good").logprob_token_ids, [3, 1]);
    for refused in [report(None, vec![3]), report(Some(0), vec![1000]), report(Some(0), vec![1; 129])] {
        assert_eq!(refused.expect_err("it is refused").param.as_deref(), Some("logprob_token_ids"));
    }
}

#[test]
fn what_limits_the_choice_of_tokens_is_checked() {
    check_refused("typical_p", "typical_p is 0; it must be above 0 and at most 1", |o| {
        o.typical_p = Some(0.0)
    });
    check_refused(
        "allowed_token_ids",
        "allowed_token_ids names token 1000; token ids of this model are below 1000",
        |o| o.allowed_token_ids = vec![3, 1000],
    );
    let detection = |max_pattern_size, min_pattern_size, min_count| {
        Some(RepetitionDetection { max_pattern_size, min_pattern_size, min_count })
    };
    check_refused(
        "repetition_detection.min_count",
        "min_count is 1; a pattern that comes again comes at least 2 times",
        |o| o.repetition_detection = detection(4, 0, 1),
    );
    check_refused(
        "repetition_detection.min_pattern_size",
        "min_pattern_size is 5; it must be at most max_pattern_size, which is 4",
        |o| o.repetition_detection = detection(4, 5, 2),
    );
    let off = resolved(|o| o.repetition_detection = detection(0, 0, 0), json!({}));
    assert_eq!(off.repetition_detection, None);
    let on = resolved(|o| o.repetition_detection = detection(4, 0, 2), json!({}));
    assert_eq!(on.repetition_detection, detection(4, 1, 2), "a pattern has at least one token");
    let file = json!({"typical_p": 0.9, "no_repeat_ngram_size": 3});
    let params = resolved(|_| (), file);
    assert_eq!((params.typical_p, params.no_repeat_ngram_size), (0.9, 3));
    assert!(params.needs_history());
}

#[test]
fn a_routes_default_gives_way_to_the_context_and_wins_over_the_models() {
    let resolve = |num_prompt_tokens, max_tokens| {
        let options =
            SamplingOptions { max_tokens, max_tokens_default: Some(16), ..SamplingOptions::default() };
        let sampling = SamplingOptions { max_tokens: Some(50), ..SamplingOptions::default() };
        let defaults = GenerationDefaults { sampling, ..GenerationDefaults::default() };
        let limits = ResolveLimits { num_prompt_tokens, ..LIMITS };
        SamplingParams::resolve(&options, &defaults, None, limits).expect("it fits").max_tokens
    };
    assert_eq!(resolve(10, None), 16);
    assert_eq!(resolve(92, None), 8, "what the context leaves");
    assert_eq!(resolve(10, Some(40)), 40);
}

#[test]
fn what_does_not_fit_the_context_is_refused_with_the_numbers() {
    let resolve = |num_prompt_tokens, max_tokens| {
        let options = SamplingOptions { max_tokens, ..SamplingOptions::default() };
        let limits = ResolveLimits { num_prompt_tokens, ..LIMITS };
        SamplingParams::resolve(&options, &GenerationDefaults::default(), None, limits)
            .map(|params| params.max_tokens)
    };
    assert_eq!(resolve(99, None), Ok(1));
    assert_eq!(resolve(100, Some(0)), Ok(0), "a prompt that is only scored may fill the context");
    assert_eq!(resolve(10, Some(90)), Ok(90));

    let failure = resolve(10, Some(91)).expect_err("it is refused");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::ContextOverflow, Some("max_tokens")));
    for number in ["10 tokens", "91", "100", "at most 90"] {
        assert!(failure.message.contains(number), "{}", failure.message);
    }
    let failure = resolve(100, None).expect_err("it is refused");
    assert_eq!(failure.kind, ErrorKind::ContextOverflow);
    assert!(failure.message.starts_with("the prompt has 100 tokens and the context of this model holds 100"));
}
