//! What a conversation looks like in a terminal: the answer as it comes, reasoning dimmed, a bar for each stage of a load.
//! Without a terminal there is the answer and nothing else, so that it can be piped on.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::chat_client::{ChatPiece, LoadFrame};

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Writes to the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    is_terminal: bool,
}

impl Screen {
    /// The terminal that standard output is, or is not.
    pub fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal() }
    }

    /// A remark beside the conversation, on standard error where output is piped on.
    pub fn remark(&self, text: &str) {
        // A closed terminal is noticed when an answer is written; a remark is not worth dying for.
        let _ = if self.is_terminal {
            writeln!(io::stdout(), "{DIM}{text}{RESET}")
        } else {
            writeln!(io::stderr(), "{text}")
        };
    }

    /// Something was asked for and this is the answer to it: lists, help.
    pub fn say(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{text}")
    }

    /// The name in front of what is said.
    pub fn prompt(&self, name: &str) -> String {
        if self.is_terminal { format!("{name}: ") } else { String::new() }
    }

    /// Begins an answer.
    pub fn begin_answer(&self, name: &str) -> io::Result<AnswerView> {
        if self.is_terminal {
            write!(io::stdout(), "{BOLD}{name}:{RESET} ")?;
            io::stdout().flush()?;
        }
        Ok(AnswerView::new(self.is_terminal))
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// An answer being written.
#[derive(Debug)]
pub struct AnswerView {
    is_terminal: bool,
    is_dimmed: bool,
    /// What came so far, without reasoning: what the conversation remembers.
    pub text: String,
    /// Why it ended, once it has.
    pub finish_reason: Option<String>,
    tokens: Option<u64>,
    num_pieces: u64,
    begun: Instant,
    first: Option<Instant>,
}

impl AnswerView {
    fn new(is_terminal: bool) -> Self {
        Self {
            is_terminal,
            is_dimmed: false,
            text: String::new(),
            finish_reason: None,
            tokens: None,
            num_pieces: 0,
            begun: Instant::now(),
            first: None,
        }
    }

    /// Writes the next piece.
    pub fn show(&mut self, piece: &ChatPiece) -> io::Result<()> {
        let text = self.render(piece);
        if text.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// What a piece looks like. Pure but for the clock.
    fn render(&mut self, piece: &ChatPiece) -> String {
        if !matches!(piece, ChatPiece::Tokens(_) | ChatPiece::Finish(_)) {
            self.first.get_or_insert_with(Instant::now);
            self.num_pieces += 1;
        }
        match piece {
            // Reasoning is for the eyes; who pipes the answer on wants the answer.
            ChatPiece::Reasoning(_) if !self.is_terminal => String::new(),
            ChatPiece::Reasoning(text) => {
                let start = if std::mem::replace(&mut self.is_dimmed, true) { "" } else { DIM };
                format!("{start}{text}")
            }
            ChatPiece::Text(text) => {
                // The break before the answer is ours; models send their own, of any length.
                let start =
                    if std::mem::take(&mut self.is_dimmed) { format!("{RESET}\n\n") } else { String::new() };
                let shown = if self.text.is_empty() { text.trim_start_matches('\n') } else { text };
                self.text.push_str(shown);
                format!("{start}{shown}")
            }
            ChatPiece::ToolCall { name, arguments } => {
                let name = name.as_deref().map(|name| format!("\n→ {name} ")).unwrap_or_default();
                format!("{name}{arguments}")
            }
            ChatPiece::Finish(reason) => {
                self.finish_reason = Some(reason.clone());
                String::new()
            }
            ChatPiece::Tokens(count) => {
                self.tokens = Some(*count);
                String::new()
            }
        }
    }

    /// Ends the line; says how fast it was and, if so, that a limit cut it.
    pub fn finish(&mut self, screen: &Screen) -> io::Result<()> {
        let reset = if std::mem::take(&mut self.is_dimmed) { RESET } else { "" };
        writeln!(io::stdout(), "{reset}")?;
        if self.is_terminal && self.num_pieces > 0 {
            screen.remark(&self.speed(self.begun.elapsed()));
        }
        if self.finish_reason.as_deref() == Some("length") {
            screen.remark(
                "the answer was cut at the token limit; raise it with `!set max_tokens=…`, or ask to go on",
            );
        }
        Ok(())
    }

    /// `N tokens in Xs (Y tok/s)`. A server that does not count has its pieces counted, which are tokens mostly.
    fn speed(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let (count, about) = self.tokens.map_or((self.num_pieces, "about "), |count| (count, ""));
        format!("{about}{count} tokens in {seconds:.1}s ({:.1} tok/s)", count as f64 / seconds.max(1e-9))
    }
}

/// The bars of a load, one for each stage.
#[derive(Debug)]
pub struct LoadView {
    bar: Option<(String, ProgressBar)>,
    is_terminal: bool,
}

impl LoadView {
    /// Bars on standard error, if that is a terminal.
    pub fn new() -> Self {
        Self { bar: None, is_terminal: io::stderr().is_terminal() }
    }

    /// Shows a frame.
    pub fn show(&mut self, frame: &LoadFrame) {
        let LoadFrame::Loading { stage, progress } = frame else { return self.clear() };
        if !self.is_terminal {
            return;
        }
        if self.bar.as_ref().is_none_or(|(shown, _)| shown != stage) {
            self.clear();
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(stage_style(stage, false))
                .with_prefix(title(stage));
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some((stage.clone(), bar));
        }
        let Some((_, bar)) = &self.bar else { return };
        if let Some(progress) = progress {
            if let Some(total) = progress.total.filter(|total| bar.length() != Some(*total)) {
                bar.set_length(total);
                bar.set_style(stage_style(stage, true));
            }
            bar.set_position(progress.current);
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for LoadView {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LoadView {
    fn drop(&mut self) {
        self.clear();
    }
}

fn title(stage: &str) -> &'static str {
    match stage {
        "processor" => "reading the tokenizer",
        "config" => "reading the configuration",
        "download" => "downloading",
        "weights" => "loading the weights",
        _ => "loading",
    }
}

fn stage_style(stage: &str, has_total: bool) -> ProgressStyle {
    let template = match (stage, has_total) {
        ("download", true) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ("download", false) => "{spinner} {prefix} {bytes} {bytes_per_sec}",
        (_, true) => "{prefix} {wide_bar} {pos}/{len}",
        (_, false) => "{spinner} {prefix}",
    };
    ProgressStyle::with_template(template).expect("the template is well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(is_terminal: bool, pieces: &[ChatPiece]) -> (String, AnswerView) {
        let mut view = AnswerView::new(is_terminal);
        let shown = pieces.iter().map(|piece| view.render(piece)).collect();
        (shown, view)
    }

    fn pieces() -> Vec<ChatPiece> {
        vec![
            ChatPiece::Reasoning("Hm. ".into()),
            ChatPiece::Reasoning("Yes.\n".into()),
            ChatPiece::Text("\n\nPa".into()),
            ChatPiece::Text("ris".into()),
            ChatPiece::Finish("length".into()),
            ChatPiece::Tokens(12),
        ]
    }

    #[test]
    fn reasoning_is_dimmed_and_not_remembered() {
        let (shown, view) = render(true, &pieces());
        assert_eq!(shown, "\x1b[2mHm. Yes.\n\x1b[0m\n\nParis");
        assert_eq!(view.text, "Paris");
        assert_eq!(view.finish_reason.as_deref(), Some("length"));
    }

    #[test]
    fn a_pipe_gets_the_answer_alone() {
        let (shown, _) = render(false, &pieces());
        assert_eq!(shown, "Paris");
    }

    #[test]
    fn speed_is_told_in_tokens() {
        let (_, view) = render(true, &pieces());
        assert_eq!(view.speed(Duration::from_secs(4)), "12 tokens in 4.0s (3.0 tok/s)");
        let (_, view) = render(true, &pieces()[..4]);
        assert_eq!(view.speed(Duration::from_secs(1)), "about 4 tokens in 1.0s (4.0 tok/s)");
    }
}
