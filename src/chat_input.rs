//! Lines from a person or a pipe. A terminal gets editing and a history; a pipe is read plainly, so that
//! `echo hi | candlewick chat` works.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::sync::{mpsc, oneshot};

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C at the prompt, the first in a row.
    Interrupted,
    /// There is nothing more to come: Ctrl-D, the end of the pipe, or Ctrl-C twice.
    End,
}

/// Where lines come from. Reading blocks, so it has a thread of its own, which ends with the program.
#[derive(Debug)]
pub struct Input {
    asks: mpsc::Sender<oneshot::Sender<anyhow::Result<Line>>>,
    is_terminal: bool,
    was_interrupted: bool,
}

impl Input {
    /// Standard input. The prompt is shown if it is a terminal.
    pub fn open(prompt: String) -> Self {
        let is_terminal = io::stdin().is_terminal();
        let (asks, mut asked) = mpsc::channel::<oneshot::Sender<anyhow::Result<Line>>>(1);
        std::thread::spawn(move || {
            let mut read: Box<dyn FnMut() -> anyhow::Result<Line>> = if is_terminal {
                match DefaultEditor::new() {
                    Ok(editor) => Box::new(edited(editor, prompt)),
                    // A terminal that cannot be edited on is read like a pipe.
                    Err(_) => Box::new(plain),
                }
            } else {
                Box::new(plain)
            };
            while let Some(reply) = asked.blocking_recv() {
                // Nobody waits for the line any more: the program is ending.
                let _ = reply.send(read());
            }
        });
        Self { asks, is_terminal, was_interrupted: false }
    }

    /// Whether a person is there.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The next line.
    pub async fn next(&mut self) -> anyhow::Result<Line> {
        let (reply, line) = oneshot::channel();
        self.asks.send(reply).await.context("the reader of lines has ended")?;
        let line = tokio::select! {
            line = line => line.context("the reader of lines has ended")??,
            // An editor sees Ctrl-C as a key. This is the signal, sent while a pipe is read: there is no prompt to
            // return to.
            _ = tokio::signal::ctrl_c() => Line::End,
        };
        let again = std::mem::replace(&mut self.was_interrupted, line == Line::Interrupted);
        Ok(if again && line == Line::Interrupted { Line::End } else { line })
    }
}

fn plain() -> anyhow::Result<Line> {
    let mut line = String::new();
    let count = io::stdin().lock().read_line(&mut line).context("cannot read standard input")?;
    Ok(if count == 0 { Line::End } else { Line::Text(line.trim_end_matches(['\n', '\r']).into()) })
}

fn edited(mut editor: DefaultEditor, prompt: String) -> impl FnMut() -> anyhow::Result<Line> {
    move || match editor.readline(&prompt) {
        Ok(line) => {
            // A history that is full or switched off is no reason to stop a talk.
            let _ = editor.add_history_entry(&line);
            Ok(Line::Text(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(error) => Err(anyhow::Error::new(error).context("cannot read the terminal")),
    }
}
