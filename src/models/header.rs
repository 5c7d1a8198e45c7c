//! What a safetensors header may not say, and its reader lets it: the same name twice. The reader would take the last of
//! them, and another program the first.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Checks the header of a file that is a whole safetensors file otherwise.
pub(crate) fn names_are_unique(file: &[u8]) -> Result<(), String> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or("it is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let header = rest.get(..length).ok_or("it is too short")?;
    serde_json::Deserializer::from_slice(header).deserialize_map(Names).map_err(|error| error.to_string())
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut tensors: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, IgnoredAny)) = tensors.next_entry::<String, IgnoredAny>()? {
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("tensor {name} is in it twice")));
            }
            seen.insert(name);
        }
        Ok(())
    }
}
