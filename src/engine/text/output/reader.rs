//! What every parser reads from and tells to, and what lets a parser read like the format it parses.
//!
//! A parser is an `async` function over characters: where it needs one that the model has not written yet, it waits.
//! It sees the text only through [`Reader`], which never shows how much of it has arrived, so what a parser tells is a
//! function of the text alone, however that was cut. [`Parser`] holds the waiting function and wakes it for each piece;
//! no runtime is involved.
//!
//! What is read of a call before its name is known is kept: if it turns out to be none, it is text after all. From the
//! name on it is a call, however it ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use candlewick_protocol::Delta;
use serde_json::Value;

use super::calls::Calls;
use super::json_text;
use super::response::{Automaton, Verdict};
use super::schema::Types;
use super::{Deltas, OutputFormat};

/// What was read is no call, or a call that does not go on like this; or the text ended.
#[derive(Debug)]
pub(super) struct Broken;

/// A parser on its way through the text of one choice.
pub(super) struct Parser {
    shared: Arc<Mutex<Shared>>,
    /// `None` once it has come to the end.
    run: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// The text as a parser sees it, and the place where it tells what it found.
pub(super) struct Reader {
    shared: Arc<Mutex<Shared>>,
    tools: Arc<[Value]>,
    /// Only these may be called, if there are any.
    allowed: Option<Arc<[String]>>,
}

struct Shared {
    /// Text that was not read yet.
    input: std::collections::VecDeque<char>,
    /// How much of it belongs to the prompt, in characters.
    num_prompt: usize,
    /// No more text will come.
    is_over: bool,
    /// What was read and may yet be text.
    raw: Option<String>,
    is_reasoning: bool,
    /// The function of the last call.
    called: String,
    calls: Calls,
    deltas: Deltas,
}

impl Parser {
    /// `make` is given the reader and returns the parsing function, started.
    pub(super) fn new<F>(calls: Calls, format: &OutputFormat, make: impl FnOnce(Reader) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(Mutex::new(Shared {
            input: std::collections::VecDeque::new(),
            num_prompt: 0,
            is_over: false,
            raw: None,
            is_reasoning: false,
            called: String::new(),
            calls,
            deltas: Deltas::default(),
        }));
        let reader = Reader {
            shared: Arc::clone(&shared),
            tools: Arc::clone(&format.tools),
            allowed: format.allowed_tools.clone(),
        };
        let mut parser = Self { shared, run: Some(Box::pin(make(reader))) };
        // A prompt that ends within reasoning is known before the first token.
        parser.go_on();
        parser
    }

    /// Takes more text; what can be told now.
    pub(super) fn push(&mut self, text: &str) -> Deltas {
        lock(&self.shared).input.extend(text.chars());
        self.go_on()
    }

    /// Reads what the prompt holds of the answer, which nobody has to be told.
    pub(super) fn read_prompt(&mut self, text: &str) {
        lock(&self.shared).num_prompt = text.chars().count();
        drop(self.push(text));
    }

    /// There is no more text; the rest that can be told.
    pub(super) fn finish(&mut self) -> Deltas {
        lock(&self.shared).is_over = true;
        self.go_on()
    }

    /// How many calls were announced.
    pub(super) fn num_calls(&self) -> u32 {
        lock(&self.shared).calls.num()
    }

    /// Whether the next character belongs to reasoning, as far as is known.
    pub(super) fn is_reasoning(&self) -> bool {
        lock(&self.shared).is_reasoning
    }

    fn go_on(&mut self) -> Deltas {
        if let Some(run) = &mut self.run
            && run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.run = None;
        }
        let mut shared = lock(&self.shared);
        if self.run.is_none() {
            // Parsers read to the end; should one not, the rest is text.
            let rest: String = shared.input.drain(..).collect();
            shared.text(&rest);
            shared.end_call();
        }
        std::mem::take(&mut shared.deltas)
    }
}

/// The lock is never contended: a parser runs only while its owner drives it.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// The next character; `None` at the end of the text.
    pub(super) async fn peek(&self) -> Option<char> {
        poll_fn(|_| {
            let shared = self.lock();
            match shared.input.front() {
                None if !shared.is_over => Poll::Pending,
                next => Poll::Ready(next.copied()),
            }
        })
        .await
    }

    /// Reads the next character; `None` at the end of the text.
    pub(super) async fn next(&self) -> Option<char> {
        let next = self.peek().await;
        self.lock().consume(1);
        next
    }

    /// Which of the marks stands next; of several the first in the list. Reads nothing.
    pub(super) async fn which(&self, marks: &[&str]) -> Option<usize> {
        poll_fn(|_| {
            let shared = self.lock();
            for (index, mark) in marks.iter().enumerate() {
                match shared.looks_like(mark) {
                    Some(true) => return Poll::Ready(Some(index)),
                    Some(false) => {}
                    None => return Poll::Pending,
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    /// Reads a mark, if it stands next.
    pub(super) async fn take(&self, mark: &str) -> bool {
        let stands = self.which(&[mark]).await.is_some();
        if stands {
            self.lock().consume(mark.chars().count());
        }
        stands
    }

    /// Reads a mark that must stand next.
    pub(super) async fn expect(&self, mark: &str) -> Result<(), Broken> {
        if self.take(mark).await { Ok(()) } else { Err(Broken) }
    }

    /// Reads a mark that closes something, or as much of it as the model wrote before the text ended.
    pub(super) async fn close(&self, mark: &str) -> bool {
        if self.take(mark).await {
            return true;
        }
        self.is_cut(&[mark])
    }

    /// Whether the rest of the text, which has ended, is the beginning of one of the marks; if so, it is read.
    pub(super) fn is_cut(&self, marks: &[&str]) -> bool {
        let mut shared = self.lock();
        let num_left = shared.input.len();
        let is_start_of = |mark: &&str| shared.input.iter().copied().eq(mark.chars().take(num_left));
        let is_cut = shared.is_over && num_left > 0 && marks.iter().any(is_start_of);
        if is_cut {
            shared.consume(num_left);
        }
        is_cut
    }

    /// Which automaton matches the longest text that stands next, and its length in characters; of several the first in
    /// the list. Reads nothing.
    pub(super) async fn longest(&self, automata: &[&Automaton]) -> Option<(usize, usize)> {
        poll_fn(|_| {
            let shared = self.lock();
            let mut best: Option<(usize, usize)> = None;
            for (index, automaton) in automata.iter().enumerate() {
                match automaton.run(shared.input.iter().copied(), shared.is_over) {
                    Verdict::Open => return Poll::Pending,
                    Verdict::Yes(len) if best.is_none_or(|(_, longest)| len > longest) => {
                        best = Some((index, len));
                    }
                    Verdict::Yes(_) | Verdict::No => {}
                }
            }
            Poll::Ready(best)
        })
        .await
    }

    /// Reads the rest of the text if that has ended in the middle of what the automaton matches.
    pub(super) fn drop_cut(&self, automaton: &Automaton) {
        let mut shared = self.lock();
        let num_left = shared.input.len();
        if num_left > 0 && automaton.run(shared.input.iter().copied(), false) == Verdict::Open {
            shared.consume(num_left);
        }
    }

    /// The rest of the text, once that has ended. Reads nothing.
    pub(super) async fn all(&self) -> String {
        poll_fn(|_| {
            let shared = self.lock();
            if shared.is_over { Poll::Ready(shared.input.iter().collect()) } else { Poll::Pending }
        })
        .await
    }

    /// Whether the next character is one of the prompt's.
    pub(super) async fn is_prompt(&self) -> bool {
        self.peek().await;
        self.lock().num_prompt > 0
    }

    /// Reads space: what it was.
    pub(super) async fn space(&self) -> String {
        let mut space = String::new();
        while let Some(char) = self.peek().await.filter(|char| char.is_whitespace()) {
            self.lock().consume(1);
            space.push(char);
        }
        space
    }

    /// Reads the name of a function; a mark or other punctuation ends it.
    pub(super) async fn name(&self) -> Result<String, Broken> {
        let mut name = String::new();
        while let Some(char) = self.peek().await {
            if !char.is_alphanumeric() && !matches!(char, '_' | '-' | '.' | ':' | '/') {
                break;
            }
            self.lock().consume(1);
            name.push(char);
        }
        if name.is_empty() { Err(Broken) } else { Ok(name) }
    }

    /// Tells text up to one of the marks, and reads that: which it was. The space before a mark belongs to it. `None`
    /// at the end of the text.
    pub(super) async fn text_until(&self, marks: &[&str]) -> Option<usize> {
        loop {
            let space = self.space().await;
            let next = self.peek().await;
            if let Some(index) = self.which(marks).await {
                self.attempt(space);
                self.lock().consume(marks[index].chars().count());
                return Some(index);
            }
            self.text(&space);
            let char = next?;
            self.lock().consume(1);
            self.text(char.encode_utf8(&mut [0; 4]));
        }
    }

    /// Tells the rest of the text.
    pub(super) async fn rest(&self) {
        while let Some(char) = self.next().await {
            self.text(char.encode_utf8(&mut [0; 4]));
        }
    }

    /// Puts back what was read.
    pub(super) fn unread(&self, text: &str) {
        let mut shared = self.lock();
        text.chars().rev().for_each(|char| shared.input.push_front(char));
    }

    /// From here on what is read may turn out to be text, after all; `before` was read already.
    pub(super) fn attempt(&self, before: String) {
        self.lock().raw = Some(before);
    }

    /// What was read is no call: it is text. A call that was announced is closed as it is.
    pub(super) fn give_up(&self) {
        let mut shared = self.lock();
        match shared.raw.take() {
            Some(raw) => shared.text(&raw),
            None => shared.end_call(),
        }
    }

    /// What was read since [`Reader::attempt`] was markup, and is not told.
    pub(super) fn forget(&self) {
        self.lock().raw = None;
    }

    /// Tells text.
    pub(super) fn text(&self, text: &str) {
        self.lock().text(text);
    }

    /// Tells reasoning.
    pub(super) fn reasoning(&self, text: &str) {
        self.lock().deltas.push(Delta::Reasoning(text.into()));
    }

    /// Tells a call; an earlier one is closed. Refused where the request does not let this tool be called: then it is
    /// text.
    pub(super) fn call(&self, name: String) -> Result<(), Broken> {
        if !self.allows(&name) {
            return Err(Broken);
        }
        let mut shared = self.lock();
        shared.end_call();
        shared.raw = None;
        shared.called.clone_from(&name);
        let Shared { calls, deltas, .. } = &mut *shared;
        calls.begin(name, deltas);
        Ok(())
    }

    /// Whether the request lets a tool of this name be called.
    pub(super) fn allows(&self, name: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|tool| tool == name))
    }

    /// Tells a piece of the arguments of the call that is open.
    pub(super) fn arguments(&self, fragment: &str) {
        let mut shared = self.lock();
        let Shared { calls, deltas, .. } = &mut *shared;
        calls.arguments(fragment, deltas);
    }

    /// Tells a character within a JSON string of the arguments.
    pub(super) fn argument_char(&self, char: char) {
        let mut escaped = String::new();
        json_text::escape(char, &mut escaped);
        self.arguments(&escaped);
    }

    /// The call that is open is complete; one without arguments has the empty object.
    pub(super) fn end_call(&self) {
        self.lock().end_call();
    }

    /// Whether a name may be that of a tool: the request has one of that name, or tells of none.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.tools.is_empty() || self.tools.iter().any(|tool| tool_name(tool) == Some(name))
    }

    /// The schema of a tool's parameters.
    pub(super) fn parameters(&self, name: &str) -> Option<&Value> {
        let tool = self.tools.iter().find(|tool| tool_name(tool) == Some(name))?;
        tool.get("function").unwrap_or(tool).get("parameters")
    }

    /// What an argument of a tool may be beside a string.
    pub(super) fn types_of(&self, name: &str, key: &str) -> Types {
        Types::of(self.parameters(name), key)
    }

    /// What an argument of the call that is open may be beside a string.
    pub(super) fn argument_types(&self, key: &str) -> Types {
        let called = self.lock().called.clone();
        self.types_of(&called, key)
    }

    /// Says whether what comes next is reasoning.
    pub(super) fn set_reasoning(&self, is_reasoning: bool) {
        self.lock().is_reasoning = is_reasoning;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

fn tool_name(tool: &Value) -> Option<&str> {
    tool.get("function").unwrap_or(tool).get("name")?.as_str()
}

impl Shared {
    /// Whether the text goes on with a mark; `None` where that is not certain yet.
    fn looks_like(&self, mark: &str) -> Option<bool> {
        let mut input = self.input.iter();
        for expected in mark.chars() {
            match input.next() {
                Some(char) if *char == expected => {}
                None if !self.is_over => return None,
                _ => return Some(false),
            }
        }
        Some(true)
    }

    fn consume(&mut self, num_chars: usize) {
        let num_chars = num_chars.min(self.input.len());
        self.num_prompt = self.num_prompt.saturating_sub(num_chars);
        let read = self.input.drain(..num_chars);
        match &mut self.raw {
            Some(raw) => raw.extend(read),
            None => drop(read),
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.end_call();
            self.deltas.push(Delta::Text(text.into()));
        }
    }

    fn end_call(&mut self) {
        self.calls.end(&mut self.deltas);
    }
}
