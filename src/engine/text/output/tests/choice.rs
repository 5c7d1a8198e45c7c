//! Which parser is chosen, by what a repository shows.

use super::*;

fn chosen(
    model_type: &str,
    template: &str,
    vocabulary: &[&str],
) -> (Option<ToolSyntax>, Option<&'static str>) {
    let signs = Signs {
        model_type: Some(model_type),
        in_template: &|text| template.contains(text),
        in_vocabulary: &|token| vocabulary.contains(&token),
    };
    let reasoning = ReasoningSyntax::of(&signs).map(|syntax| match syntax {
        ReasoningSyntax::Tags(tags) => tags.open,
        ReasoningSyntax::Harmony => "harmony",
    });
    (ToolSyntax::of(&signs), reasoning)
}

#[test]
fn the_template_decides_then_the_type_then_the_vocabulary() {
    use ToolSyntax::*;
    assert_eq!(chosen("qwen3", "<think> <tool_call>", &[]), (Some(Hermes), Some("<think>")));
    assert_eq!(chosen("qwen3_moe", "<tool_call>\n<function=x>", &["<tool_call>"]), (Some(QwenXml), None));
    assert_eq!(chosen("glm4_moe", "<tool_call>x<arg_key> <think>", &[]), (Some(Glm), Some("<think>")));
    let distilled = chosen("qwen2", "<think><｜tool▁calls▁begin｜>", &["<tool_call>"]);
    assert_eq!(distilled, (Some(DeepSeek), Some("<think>")));
    assert_eq!(chosen("gpt_oss", "<|channel|> <|message|>", &[]), (Some(Harmony), Some("harmony")));
    assert_eq!(chosen("gemma4", "", &["<|channel>"]), (Some(Gemma), Some("<|channel>thought")));
    assert_eq!(chosen("mistral3", "[TOOL_CALLS]", &["[THINK]"]), (Some(Mistral), Some("[THINK]")));
    assert_eq!(chosen("phi3", "<|tool|>", &["<|tool_call|>"]), (Some(Phi), None));
    assert_eq!(chosen("llama", "", &["<|python_tag|>"]), (Some(LlamaJson), None));
    assert_eq!(chosen("llama4", "", &[]), (Some(Pythonic), None));
    assert_eq!(chosen("llama", "{{ messages }}", &[]), (None, None));
}

#[test]
fn a_name_that_is_not_known_is_told_those_that_are() {
    assert_eq!(ToolSyntax::named("qwen3_coder").expect("it is known"), ToolSyntax::QwenXml);
    let message = ToolSyntax::named("hermès").expect_err("it is not").to_string();
    assert!(message.contains("`hermès`") && message.contains("hermes, qwen3_xml"), "{message}");
}
