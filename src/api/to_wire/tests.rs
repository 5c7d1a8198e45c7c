//! Log-probabilities, which come in two shapes and have edges: infinities, first tokens, half characters.

use candlewick_protocol::{TokenLogprob, TopLogprob};
use serde_json::json;

use super::logprobs::{chat_logprobs, completion_logprobs};

fn token(token_id: u32, text: &str, logprob: Option<f32>, top: &[(u32, &str, f32)]) -> TokenLogprob {
    let top = top.iter().map(|(token_id, text, logprob)| TopLogprob {
        token_id: *token_id,
        text: (*text).to_owned(),
        bytes: text.as_bytes().to_vec(),
        logprob: *logprob,
    });
    TokenLogprob {
        token_id,
        text: text.to_owned(),
        bytes: text.as_bytes().to_vec(),
        logprob,
        rank: None,
        top: top.collect(),
    }
}

#[test]
fn chat_lists_the_top_without_adding_the_token_taken() {
    let taken = token(9, "b", Some(f32::NEG_INFINITY), &[(8, "a", -0.5), (7, "é", -1.0)]);
    let written = serde_json::to_value(chat_logprobs(&[taken], false)).expect("it serialises");
    let expected = json!({
        "content": [{"token": "b", "logprob": -9999.0, "bytes": [98], "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "é", "logprob": -1.0, "bytes": [195, 169]},
        ]}],
        "refusal": null,
    });
    assert_eq!(written, expected);
}

#[test]
fn completions_count_offsets_in_characters_across_pieces() {
    let prompt = token(1, "né", None, &[]);
    let mut offset = 0;
    let lists =
        completion_logprobs(&[prompt, token(2, "x", Some(-1.3), &[(3, "y", -0.5)])], &mut offset, false);
    assert_eq!(lists.tokens, ["né", "x"]);
    assert_eq!(lists.token_logprobs, [None, Some(-1.3)], "nothing comes before the first token");
    assert_eq!(lists.text_offset, [0, 2]);
    assert_eq!(lists.top_logprobs[0], None);
    let top = serde_json::to_string(&lists.top_logprobs[1]).expect("it serialises");
    assert_eq!(
        top, r#"{"y":-0.5,"x":-1.3}"#,
        "the token taken is there, with the digits of `token_logprobs`"
    );
    let next = completion_logprobs(&[token(4, "z", Some(-2.0), &[])], &mut offset, true);
    assert_eq!((next.text_offset, next.tokens), (vec![3], vec!["token_id:4".to_owned()]));
}
