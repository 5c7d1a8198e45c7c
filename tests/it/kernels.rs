//! What computes is a choice of the operator, and the answer is the same.

use serde_json::{Value, json};

use crate::support::{http, program};

/// What the embedded model answers on these kernels; the error is why the program does not serve.
fn answer(kernels: &str) -> Result<String, String> {
    let (mut child, address) = program::serve(&["--no-store", "--kernels", kernels])?;
    let body = json!({
        "model": "candlewick/ember",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    });
    let answer: Value = http::post(address, "/v1/chat/completions", &body).json();
    child.kill().expect("it is alive");
    child.wait().expect("it is dead");
    Ok(answer["choices"][0]["message"]["content"].as_str().expect("a text").to_owned())
}

#[test]
fn every_kind_of_kernels_gives_the_same_text() {
    let expected = answer("auto").expect("it serves");
    assert!(expected.contains("Paris"), "{expected}");
    assert_eq!(answer("reference").expect("it serves"), expected);
    assert_eq!(answer("portable").expect("it serves"), expected);
    let x86 = ["avx2", "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16"];
    let arm = ["neon", "neon-dotprod", "neon-bf16"];
    for level in x86.into_iter().chain(arm) {
        match answer(level) {
            Ok(found) => assert_eq!(found, expected, "{level}"),
            Err(said) => assert!(said.contains("this machine has no kernels"), "{level}: {said}"),
        }
    }
}
