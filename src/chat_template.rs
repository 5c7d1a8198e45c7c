//! The chat template that is served in place of the models' own: read and tried at the start, so that a mistake in it
//! does not wait for the first load.

use std::io;
use std::path::PathBuf;

use candlewick_engine::text::{TemplateFault, check_chat_template};

use crate::settings::ChatTemplate;

/// Why a chat template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// Its file cannot be read.
    #[error("cannot read the chat template {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// What is in the file is no template.
    #[error("{}:{}: not a Jinja template: {}", path.display(), fault.line, fault.why)]
    BrokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        fault: TemplateFault,
    },
    /// What was set is no template.
    #[error("the chat template is not a Jinja template: {0}")]
    Broken(TemplateFault),
}

impl ChatTemplate {
    /// Its text, which can be parsed. Reads the file.
    pub fn read(&self) -> Result<String, ChatTemplateError> {
        match self {
            Self::Inline(text) => {
                check_chat_template(text).map_err(ChatTemplateError::Broken)?;
                Ok(text.clone())
            }
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|why| ChatTemplateError::Unreadable { path: path.clone(), why })?;
                check_chat_template(&text)
                    .map_err(|fault| ChatTemplateError::BrokenFile { path: path.clone(), fault })?;
                Ok(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_file_is_read_and_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.jinja");
        let read = || ChatTemplate::File(path.clone()).read().map_err(|error| error.to_string());
        std::fs::write(&path, "{{ bos_token }}").expect("written");
        assert_eq!(read(), Ok("{{ bos_token }}".into()));
        std::fs::write(&path, "{{ bos_token }}\n{% for %}").expect("written");
        let error = read().expect_err("broken");
        assert!(error.contains("t.jinja:2: ") && error.contains("syntax error"), "{error}");
        std::fs::remove_file(&path).expect("removed");
        let error = read().expect_err("gone");
        assert!(error.contains("t.jinja"), "{error}");
    }
}
