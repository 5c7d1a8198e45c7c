//! Which files of a repository serve a model, and in which order a load wants them.
//!
//! Pure rules over a list of names, shared by the loader and by `candlewick download`, so that what was downloaded ahead
//! is exactly what a load will ask for. Everything else in a repository (pickles, ONNX exports, `original/`, images) is
//! never fetched. The choice among several weights follows `transformers` (`_get_resolved_checkpoint_files`): one
//! `model.safetensors`, else the shards of its index.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::encode::SentenceLayout;
use crate::{FileEntry, LoadError};

/// The index of a sharded checkpoint: `{"weight_map": {tensor: file}}`.
pub const WEIGHT_INDEX: &str = "model.safetensors.index.json";

const WHOLE_WEIGHTS: &str = "model.safetensors";

/// What it takes to turn a request into token ids and back.
const PROCESSOR: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

const CONFIG: [&str; 2] = ["config.json", "generation_config.json"];

/// A folder of named chat templates, one `.jinja` file each.
const TEMPLATE_FOLDER: &str = "additional_chat_templates/";

/// The files of the processor stage that this repository has: tokenizer, chat templates, and how vectors are made of texts.
pub fn processor_files(files: &[FileEntry]) -> Vec<String> {
    let mut names = present(files, &PROCESSOR);
    let is_template = |name: &str| name.starts_with(TEMPLATE_FOLDER) && name.ends_with(".jinja");
    let others = files.iter().map(|file| &file.name);
    names.extend(others.filter(|name| is_template(name) || SentenceLayout::is_part(name)).cloned());
    names
}

/// The files of the config stage that this repository has.
pub fn config_files(files: &[FileEntry]) -> Vec<String> {
    present(files, &CONFIG)
}

/// The index that [`weight_files`] wants to see, if this repository's weights are sharded.
pub fn index_file(files: &[FileEntry]) -> Option<&'static str> {
    (!has(files, WHOLE_WEIGHTS) && has(files, WEIGHT_INDEX)).then_some(WEIGHT_INDEX)
}

/// The files that hold the weights, in the order of their names.
///
/// `index` is the content of [`index_file`], if there is one; `gguf` is the file that the model was named by.
///
/// # Errors
/// `NotFound` if there are no weights, or the index or the name ask for a file that is not there; `Unsupported` for
/// weights that we do not read (pickles); `Corrupt` for an index that is none.
pub fn weight_files(
    files: &[FileEntry],
    index: Option<&Value>,
    gguf: Option<&str>,
) -> Result<Vec<String>, LoadError> {
    if let Some(gguf) = gguf {
        return gguf_files(files, gguf);
    }
    if has(files, WHOLE_WEIGHTS) {
        return Ok(vec![WHOLE_WEIGHTS.into()]);
    }
    if let Some(index) = index {
        return shards(files, index);
    }
    let lone = top_level(files, ".safetensors").filter(|name| !is_foreign(name)).collect::<Vec<_>>();
    match lone[..] {
        [name] => Ok(vec![name.into()]),
        [] => Err(no_weights(files)),
        _ => Err(LoadError::NotFound(format!(
            "the repository has several .safetensors files ({}) and neither {WHOLE_WEIGHTS} nor {WEIGHT_INDEX} to say which \
             of them belong together",
            lone.join(", ")
        ))),
    }
}

fn present(files: &[FileEntry], wanted: &[&str]) -> Vec<String> {
    wanted.iter().filter(|name| has(files, name)).map(|&name| name.into()).collect()
}

fn has(files: &[FileEntry], name: &str) -> bool {
    files.iter().any(|file| file.name == name)
}

fn top_level<'a>(files: &'a [FileEntry], suffix: &'a str) -> impl Iterator<Item = &'a str> {
    files
        .iter()
        .map(|file| file.name.as_str())
        .filter(move |name| name.ends_with(suffix) && !name.contains('/'))
}

/// Safetensors that are not a model's weights under their usual names: adapters, and Mistral's own naming.
fn is_foreign(name: &str) -> bool {
    name.starts_with("adapter_") || name.starts_with("consolidated")
}

fn shards(files: &[FileEntry], index: &Value) -> Result<Vec<String>, LoadError> {
    let corrupt = |why: &str| LoadError::Corrupt { file: WEIGHT_INDEX.into(), why: why.into() };
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| corrupt("there is no object `weight_map` from tensor to file in it"))?;
    let names = map
        .values()
        .map(|file| file.as_str().ok_or_else(|| corrupt("`weight_map` holds a value that is no file name")));
    // A set: thousands of tensors share a few files.
    let names = names.collect::<Result<BTreeSet<_>, _>>()?;
    if names.is_empty() {
        return Err(corrupt("`weight_map` is empty"));
    }
    // Asking for a file by the repository's own list also keeps names such as `../x` out.
    if let Some(missing) = names.iter().find(|name| !has(files, name)) {
        return Err(LoadError::NotFound(format!(
            "{WEIGHT_INDEX} names the file {missing}, and the repository has none such"
        )));
    }
    Ok(names.into_iter().map(Into::into).collect())
}

fn gguf_files(files: &[FileEntry], gguf: &str) -> Result<Vec<String>, LoadError> {
    let names = gguf_names(gguf);
    match names.iter().find(|name| !has(files, name)) {
        Some(missing) => Err(no_gguf(files, missing)),
        None => Ok(names),
    }
}

/// The named file; all of its set, in order, if its name says that it is one of several (`…-00001-of-00003.gguf`).
pub fn gguf_names(gguf: &str) -> Vec<String> {
    match gguf_set(gguf) {
        None => vec![gguf.into()],
        Some((stem, count)) => {
            (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}.gguf")).collect()
        }
    }
}

/// The GGUF models among the files: each by its name, or the name of the first file of its set. Files that go with a model
/// (projectors of images, importance matrices) are none.
pub fn gguf_models(files: &[FileEntry]) -> Vec<&str> {
    let is_model = |name: &&str| {
        let base = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let is_first = gguf_set(name).is_none() || gguf_names(name)[0] == **name;
        name.ends_with(".gguf") && !base.starts_with("mmproj") && !base.contains("imatrix") && is_first
    };
    files.iter().map(|file| file.name.as_str()).filter(is_model).collect()
}

/// The GGUF model that is meant where none is named: the only one of a repository without safetensors.
pub fn only_gguf(files: &[FileEntry]) -> Option<&str> {
    if files.iter().any(|file| file.name.ends_with(".safetensors")) {
        return None;
    }
    match gguf_models(files)[..] {
        [only] => Some(only),
        _ => None,
    }
}

fn gguf_set(gguf: &str) -> Option<(&str, u32)> {
    let (rest, count) = gguf.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !five_digits(number) || !five_digits(count) {
        return None;
    }
    let (number, count) = (number.parse::<u32>().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((stem, count))
}

fn no_gguf(files: &[FileEntry], gguf: &str) -> LoadError {
    let there = files
        .iter()
        .map(|file| file.name.as_str())
        .filter(|name| name.ends_with(".gguf"))
        .collect::<Vec<_>>();
    LoadError::NotFound(match there[..] {
        [] => format!("the repository has no file {gguf}, and no GGUF file at all"),
        _ => format!("the repository has no file {gguf}; its GGUF files are {}", there.join(", ")),
    })
}

fn no_weights(files: &[FileEntry]) -> LoadError {
    let has_suffix = |suffix: &str| files.iter().any(|file| file.name.ends_with(suffix));
    let ggufs = gguf_models(files);
    if let Some(first) = ggufs.first() {
        return LoadError::NotFound(format!(
            "the repository has no safetensors weights but GGUF files ({}); name the one that is meant, as in `org/name:{first}`",
            ggufs.join(", ")
        ));
    }
    if files.iter().any(|file| file.name.starts_with("consolidated") && file.name.ends_with(".safetensors")) {
        return LoadError::Unsupported(
            "the repository has its weights only as consolidated.safetensors, in Mistral's own naming; \
             weights in the Hugging Face naming (model.safetensors) are needed"
                .into(),
        );
    }
    if files.iter().any(|file| file.name.starts_with("adapter_")) {
        return LoadError::Unsupported(
            "the repository is an adapter without a base model; a repository with whole weights (model.safetensors) is \
             needed"
                .into(),
        );
    }
    if [".bin", ".pt", ".pth", ".ckpt"].into_iter().any(has_suffix) {
        return LoadError::Unsupported(
            "the repository has its weights only as pickles (such as pytorch_model.bin), which are refused because reading \
             a pickle runs code; weights as safetensors are needed"
                .into(),
        );
    }
    LoadError::NotFound(format!("the repository has no weights: neither {WHOLE_WEIGHTS} nor {WEIGHT_INDEX}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entries(names: &[&str]) -> Vec<FileEntry> {
        names.iter().map(|&name| FileEntry { name: name.into(), size: None, cached: false }).collect()
    }

    #[track_caller]
    fn check(names: &[&str], index: Option<Value>, gguf: Option<&str>, expected: &[&str]) {
        assert_eq!(weight_files(&entries(names), index.as_ref(), gguf).expect("there are weights"), expected);
    }

    #[track_caller]
    fn check_refused(names: &[&str], index: Option<Value>, gguf: Option<&str>, text: &str) {
        let error = weight_files(&entries(names), index.as_ref(), gguf).expect_err("these are no weights");
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn small_files_come_by_stage_and_only_if_there() {
        let files = entries(&[
            "additional_chat_templates/rag.jinja",
            "additional_chat_templates/README.md",
            "config.json",
            "merges.txt",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]);
        assert_eq!(
            processor_files(&files),
            ["tokenizer.json", "tokenizer_config.json", "additional_chat_templates/rag.jinja"]
        );
        assert_eq!(config_files(&files), ["config.json"]);
    }

    #[test]
    fn one_file_of_weights_is_preferred_to_its_shards() {
        let index = json!({"weight_map": {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors"}});
        let sharded = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", WEIGHT_INDEX];
        check(&sharded, Some(index.clone()), None, &sharded[..2]);
        assert_eq!(index_file(&entries(&sharded)), Some(WEIGHT_INDEX));

        let both = [
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            WEIGHT_INDEX,
        ];
        check(&both, Some(index), None, &["model.safetensors"]);
        assert_eq!(index_file(&entries(&both)), None);
        check(&["weights.safetensors", "adapter_model.safetensors"], None, None, &["weights.safetensors"]);
    }

    #[test]
    fn an_index_must_name_files_that_are_there() {
        check_refused(
            &["a.safetensors"],
            Some(json!({"weight_map": {"x": "../../etc/passwd"}})),
            None,
            "../../etc/passwd",
        );
        check_refused(&["a.safetensors"], Some(json!({})), None, "weight_map");
        check_refused(&["a.safetensors"], Some(json!({"weight_map": {}})), None, "empty");
        check_refused(&["a.safetensors"], Some(json!({"weight_map": {"x": 1}})), None, "no file name");
    }

    #[test]
    fn weights_that_are_not_read_are_refused_with_what_would_be_right() {
        check_refused(&["pytorch_model.bin", "config.json"], None, None, "safetensors are needed");
        check_refused(&["config.json", "onnx/model.onnx"], None, None, "no weights");
        check_refused(&["adapter_model.safetensors"], None, None, "base model");
        check_refused(&["consolidated.safetensors"], None, None, "Mistral");
        check_refused(&["a.safetensors", "b.safetensors"], None, None, "a.safetensors, b.safetensors");
        check_refused(&["m-q8.gguf"], None, None, "org/name:m-q8.gguf");
    }

    #[test]
    fn a_gguf_file_is_taken_by_name_and_with_its_set() {
        check(&["q4.gguf", "q8.gguf", "model.safetensors"], None, Some("q8.gguf"), &["q8.gguf"]);
        let set = ["q8-00001-of-00002.gguf", "q8-00002-of-00002.gguf"];
        check(&set, None, Some(set[0]), &set);
        check_refused(&set[..1], None, Some(set[0]), set[1]);
        check_refused(&["q4.gguf"], None, Some("q8.gguf"), "q4.gguf");
    }
}
