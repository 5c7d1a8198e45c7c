//! The model that comes with the program: `candlewick/ember`, a toy of a few million parameters, so that the first
//! command works on a machine without network and without a cache. Made by `scripts/ember/`.

/// Its name.
pub const MODEL: &str = "candlewick/ember";

/// Its files, by name.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../config/models/ember/config.json")),
    ("generation_config.json", include_bytes!("../config/models/ember/generation_config.json")),
    ("model.safetensors", include_bytes!("../config/models/ember/model.safetensors")),
    ("tokenizer.json", include_bytes!("../config/models/ember/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../config/models/ember/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../config/models/ember/chat_template.jinja")),
];
