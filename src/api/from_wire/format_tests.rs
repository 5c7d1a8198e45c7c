//! Forms of answers: the many ways to ask for one, and what is wrong with those that are refused.

use candlewick_protocol::{Constraint, JsonLayout, OutputForm};
use serde_json::{Value, json};

use super::tests::{INVALID, MISSING, UNSUPPORTED, assert_fault, chat, completions};

fn constraint(more: Value) -> Option<Constraint> {
    chat(more).expect("it is good").constraint
}

#[track_caller]
fn assert_form(more: Value, form: OutputForm, param: &str) {
    let Constraint { form: found, param: at } = constraint(more).expect("a form is asked for");
    assert_eq!((found, at.as_str()), (form, param));
}

fn person() -> Value {
    json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": false})
}

#[test]
fn the_forms_of_openai_are_read() {
    let format = |format: Value| json!({"response_format": format});
    assert_eq!(constraint(format(json!({"type": "text"}))), None);
    assert_form(format(json!({"type": "json_object"})), OutputForm::json_object(), "response_format");
    let named = json!({"name": "person", "schema": person(), "strict": true, "description": "who"});
    let path = "response_format.json_schema.schema";
    assert_form(
        format(json!({"type": "json_schema", "json_schema": named})),
        OutputForm::json(person()),
        path,
    );
    // As the Responses API has it.
    let flat = json!({"type": "json_schema", "name": "person", "schema": person()});
    assert_form(format(flat), OutputForm::json(person()), "response_format.schema");
}

#[test]
fn the_forms_of_vllm_are_read_under_their_names_of_old_and_today() {
    let outputs = |outputs: Value| json!({"structured_outputs": outputs});
    assert_form(outputs(json!({"regex": "a+"})), OutputForm::Regex("a+".into()), "structured_outputs.regex");
    assert_form(json!({"guided_regex": "a+"}), OutputForm::Regex("a+".into()), "guided_regex");
    let choice = || OutputForm::Choice(vec!["a".into(), "b".into()]);
    assert_form(outputs(json!({"choice": ["a", "b"]})), choice(), "structured_outputs.choice");
    assert_form(json!({"guided_choice": ["a", "b"]}), choice(), "guided_choice");
    let text = person().to_string();
    assert_form(outputs(json!({"json": text})), OutputForm::json(person()), "structured_outputs.json");
    assert_form(
        json!({"guided_json": person(), "guided_decoding_backend": "xgrammar"}),
        OutputForm::json(person()),
        "guided_json",
    );
    let compact = OutputForm::Json { schema: json!({"type": "object"}), layout: JsonLayout::Compact };
    assert_form(
        outputs(json!({"json_object": true, "disable_any_whitespace": true})),
        compact,
        "structured_outputs.json_object",
    );
    let spaced = OutputForm::Json { schema: person(), layout: JsonLayout::Pattern(" ?".into()) };
    assert_form(json!({"guided_json": person(), "guided_whitespace_pattern": " ?"}), spaced, "guided_json");
    let open = json!({"type": "object", "properties": {"a": {"properties": {}}}});
    let closed = json!({"type": "object", "additionalProperties": false,
                        "properties": {"a": {"properties": {}, "additionalProperties": false}}});
    let asked = constraint(outputs(json!({"json": open, "disable_additional_properties": true})));
    assert_eq!(asked.expect("a form").form, OutputForm::json(closed));
    let grammar = || OutputForm::Grammar("root ::= \"a\"".into());
    assert_form(json!({"guided_grammar": "root ::= \"a\""}), grammar(), "guided_grammar");
    let request = completions(json!({"structured_outputs": {"grammar": "root ::= \"a\""}})).expect("good");
    assert_eq!(request[0].constraint.as_ref().expect("a form").form, grammar());
}

#[test]
fn the_forms_of_tgi_are_read() {
    let typed = |class: &str, value: Value| json!({"type": class, "value": value});
    for class in ["json", "json_object", "json_schema"] {
        assert_form(json!({"grammar": typed(class, person())}), OutputForm::json(person()), "grammar.value");
        // Python's client of the Hub sends it under OpenAI's name.
        let format = json!({"response_format": typed(class, person())});
        assert_form(format, OutputForm::json(person()), "response_format.value");
    }
    assert_form(
        json!({"grammar": typed("regex", json!("a+"))}),
        OutputForm::Regex("a+".into()),
        "grammar.value",
    );
    let named = typed("json_schema", json!({"name": "person", "schema": person()}));
    assert_form(
        json!({"response_format": named}),
        OutputForm::json(person()),
        "response_format.value.schema",
    );
}

#[test]
fn a_structural_tag_needs_structures_that_its_triggers_begin() {
    let tag = |begin: &str| {
        json!({"type": "structural_tag", "triggers": ["<f"],
               "structures": [{"begin": begin, "schema": person(), "end": "</f>"}]})
    };
    let OutputForm::StructuralTag { structures, .. } =
        constraint(json!({"response_format": tag("<f=a>")})).expect("a form").form
    else {
        panic!("a structural tag")
    };
    assert_eq!(structures[0].begin, "<f=a>");
    let asked = constraint(json!({"structured_outputs": {"structural_tag": tag("<f=a>").to_string()}}));
    assert_eq!(asked.expect("a form").param, "structured_outputs.structural_tag");
    assert_fault(chat(json!({"response_format": tag("<g>")})), INVALID, "response_format.structures.0.begin");
    let newer = json!({"type": "structural_tag", "format": {"type": "sequence"}});
    assert_fault(chat(json!({"response_format": newer})), UNSUPPORTED, "response_format.format");
}

#[test]
fn a_fault_in_a_form_names_its_place() {
    let format = |format: Value| chat(json!({"response_format": format}));
    assert_fault(format(json!({})), MISSING, "response_format.type");
    assert_fault(format(json!({"type": "yaml"})), INVALID, "response_format.type");
    assert_fault(format(json!({"type": "json_schema"})), MISSING, "response_format.json_schema");
    let schema = |schema: Value| format(json!({"type": "json_schema", "json_schema": schema}));
    assert_fault(schema(json!({"schema": {}})), MISSING, "response_format.json_schema.name");
    assert_fault(schema(json!({"name": "a b"})), INVALID, "response_format.json_schema.name");
    assert_fault(schema(json!({"name": "x".repeat(65)})), INVALID, "response_format.json_schema.name");
    assert_fault(schema(json!({"name": "x", "schema": []})), INVALID, "response_format.json_schema.schema");
    let mut deep = json!({});
    for _ in 0..70 {
        deep = json!({"items": deep});
    }
    assert_fault(schema(json!({"name": "x", "schema": deep})), INVALID, "response_format.json_schema.schema");
    let outputs = |outputs: Value| chat(json!({"structured_outputs": outputs}));
    assert_fault(outputs(json!({"choice": []})), INVALID, "structured_outputs.choice");
    assert_fault(outputs(json!({"grammar": " "})), INVALID, "structured_outputs.grammar");
    assert_fault(outputs(json!({"regex": "a\0"})), INVALID, "structured_outputs.regex");
    assert_fault(outputs(json!({"json_object": false})), INVALID, "structured_outputs.json_object");
    assert_fault(outputs(json!({"json": "{"})), INVALID, "structured_outputs.json");
    assert_fault(outputs(json!({"json": {}, "regex": "a"})), INVALID, "structured_outputs");
}

#[test]
fn strict_takes_all_properties_and_no_others() {
    let strict = |schema: Value| {
        let named = json!({"name": "x", "strict": true, "schema": schema});
        chat(json!({"response_format": {"type": "json_schema", "json_schema": named}}))
    };
    let path = "response_format.json_schema.schema";
    strict(person()).expect("it is strict");
    let open = json!({"type": "object", "properties": {}, "required": []});
    assert_fault(strict(open.clone()), INVALID, &format!("{path}.additionalProperties"));
    let inner = json!({"type": "object", "properties": {"a": open}, "required": ["a"], "additionalProperties": false});
    assert_fault(strict(inner), INVALID, &format!("{path}.properties.a.additionalProperties"));
    let optional = json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false});
    assert_fault(strict(optional.clone()), INVALID, &format!("{path}.required"));
    let tool = json!({"type": "function", "function": {"name": "f", "strict": true, "parameters": optional}});
    assert_fault(chat(json!({"tools": [tool]})), INVALID, "tools.0.function.parameters.required");
}

#[test]
fn an_answer_is_held_to_one_form_and_not_beside_a_forced_call() {
    let both = json!({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}});
    assert_fault(chat(both), INVALID, "structured_outputs");
    let text = json!({"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}});
    chat(text).expect("text asks for no form");
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let with = |choice: &str| {
        chat(json!({"tools": [tool], "tool_choice": choice, "response_format": {"type": "json_object"}}))
    };
    with("auto").expect("the model chooses");
    assert_fault(with("required"), INVALID, "response_format");
}
