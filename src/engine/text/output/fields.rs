//! Arguments that a model writes key by key, in marks and not in JSON, told as a JSON object while they come.

use super::json_text::quote;
use super::reader::{Broken, Reader};
use super::schema::Types;

/// The arguments of the call that is open.
pub(super) struct Fields<'a> {
    reader: &'a Reader,
    function: String,
    has_any: bool,
}

impl<'a> Fields<'a> {
    /// Announces the call.
    pub(super) fn new(reader: &'a Reader, function: String) -> Result<Self, Broken> {
        reader.call(function.clone())?;
        Ok(Self { reader, function, has_any: false })
    }

    /// Reads a value up to one of the ends, which is not read, and tells it beside its key: a string while it comes,
    /// what the schema may make something else when it is complete.
    ///
    /// # Errors
    /// The text ends first: what there is was told.
    pub(super) async fn field(&mut self, key: &str, ends: &[&str]) -> Result<usize, Broken> {
        let reader = self.reader;
        reader.arguments(&format!("{}{}: ", if self.has_any { ", " } else { "{" }, quote(key)));
        self.has_any = true;
        let types = Types::of(reader.parameters(&self.function), key);
        let mut held = String::new();
        if types.is_string() {
            reader.arguments("\"");
        }
        loop {
            if let Some(end) = reader.which(ends).await {
                reader.arguments(&if types.is_string() { "\"".into() } else { types.cast(&held) });
                return Ok(end);
            }
            if reader.is_cut(ends) {
                reader.arguments(&held);
                return Err(Broken);
            }
            match reader.next().await {
                Some(char) if types.is_string() => reader.argument_char(char),
                Some(char) => held.push(char),
                None => {
                    reader.arguments(&held);
                    return Err(Broken);
                }
            }
        }
    }

    /// There are no more.
    pub(super) fn close(self) {
        if self.has_any {
            self.reader.arguments("}");
        }
        self.reader.end_call();
    }
}
