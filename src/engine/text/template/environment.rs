//! The environment in which chat templates run: minijinja set up to behave as the one of transformers
//! (`_cached_compile_jinja_template` in `utils/chat_template_utils.py`).
//!
//! Templates come from strangers: they reach no file and no network, and fuel, recursion and output are limited.
//! What is not limited is the length of one text made by doubling (`~`), which minijinja offers no hook for.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

use super::{json, methods, python};

/// Instructions of one rendering. A long conversation with tools takes thousands; this is about a second.
const FUEL: u64 = 20_000_000;

/// Depth of macros and loops.
const RECURSION_LIMIT: usize = 200;

/// What a template says by `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(print);
    minijinja_contrib::add_to_environment(&mut env);
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", |value: &Value| Value::from(python::str(value)));
    env.add_filter("trim", trim);
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", is_sequence);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env
}

/// Prints a value as Python's `str`.
fn print(out: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::str(value)),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the output is too long"))
}

/// `str.strip`, on whatever value.
fn trim(value: &Value, chars: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let named: Option<String> = kwargs.get("chars")?;
    kwargs.assert_all_used()?;
    let chars = chars.map(str::to_owned).or(named);
    let is_cut =
        |char: char| chars.as_ref().map_or_else(|| python::is_space(char), |chars| chars.contains(char));
    Ok(python::str(value).trim_matches(is_cut).to_owned())
}

/// Whatever has a length and items: to Python also texts, mappings and what is undefined.
fn is_sequence(value: &Value) -> bool {
    use minijinja::value::ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The local time, by a format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    fmt::Write::write_fmt(&mut text, format_args!("{}", chrono::Local::now().format(format))).map_err(
        |_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: bad format `{format}`")),
    )?;
    Ok(text)
}
