//! Failures on purpose: places in the code where a test, or somebody who tries the server's nerve, has something break.
//!
//! Each tree of actors has its own [`Failpoints`], so that servers in one process do not disturb each other. They are
//! compiled into debug builds, where tests and `cargo run` share them, and into a release build only with the feature
//! `failpoints`; without, every place is an empty function. Unarmed, a place costs a look at an `Option`.

use std::fmt;
use std::panic::resume_unwind;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Whether this build has them.
const ARE_BUILT_IN: bool = cfg!(any(debug_assertions, feature = "failpoints"));

/// Where something can be made to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailPlace {
    /// A load, once its model's files are found.
    Loader,
    /// A message to a batcher.
    Batcher,
    /// A step, on the stepper's thread.
    Stepper,
    /// A message to a request's actor.
    Request,
    /// Text on its way to tokens.
    Tokenizer,
    /// A chat on its way to text.
    Template,
    /// A frame of a stream that is to be written.
    Sse,
}

impl FailPlace {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Loader,
        Self::Batcher,
        Self::Stepper,
        Self::Request,
        Self::Tokenizer,
        Self::Template,
        Self::Sse,
    ];

    /// Its name in settings and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::Batcher => "batcher",
            Self::Stepper => "stepper",
            Self::Request => "request",
            Self::Tokenizer => "tokenizer",
            Self::Template => "template",
            Self::Sse => "sse",
        }
    }
}

impl fmt::Display for FailPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FailPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = Self::ALL.into_iter().find(|place| place.name() == text);
        place.ok_or_else(|| format!("there is no failpoint `{text}`"))
    }
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailAction {
    /// What is done there fails.
    Error,
    /// It panics.
    Panic,
    /// Whoever does it is ended: an actor is killed, a thread's work ends without an answer.
    Kill,
    /// It takes so long, and then goes on.
    Delay(Duration),
    /// It takes until [`Failpoints::disarm`].
    Hang,
}

/// One failure to come.
#[derive(Debug, Clone)]
pub struct FailRule {
    /// Where.
    pub place: FailPlace,
    /// What.
    pub action: FailAction,
    /// Only for this model: its repository or its canonical id.
    pub model: Option<String>,
    /// How often the place is passed first.
    pub skip: u64,
    /// How often it happens.
    pub times: u64,
}

impl FailRule {
    /// Once, at the next chance, whatever the model.
    pub fn once(place: FailPlace, action: FailAction) -> Self {
        Self { place, action, model: None, skip: 0, times: 1 }
    }

    fn concerns(&self, place: FailPlace, model: &str) -> bool {
        let is_model = |wanted: &str| {
            model.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        self.place == place && self.times > 0 && self.model.as_deref().is_none_or(is_model)
    }
}

/// The failures to come of one server. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Failpoints {
    shared: Option<Arc<Shared>>,
    /// The model that this clone speaks for; empty where that is not known.
    model: Arc<str>,
}

/// Those of the same server, where the same model is at work.
impl PartialEq for Failpoints {
    fn eq(&self, other: &Self) -> bool {
        self.shared.as_ref().map(Arc::as_ptr) == other.shared.as_ref().map(Arc::as_ptr)
            && self.model == other.model
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    disarmed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<FailRule>,
    num_struck: u64,
    /// Grows with each disarming: what hangs waits for that.
    generation: u64,
}

/// A thread's work that was ended by [`FailAction::Kill`]: what it unwinds with. Nothing is printed.
#[derive(Debug)]
pub struct Killed;

impl Failpoints {
    /// Those of one server; nothing fails until it is told to. In a build without failpoints, nothing ever does.
    pub fn new() -> Self {
        Self { shared: ARE_BUILT_IN.then(Arc::default), model: Arc::from("") }
    }

    /// Whether something can be made to fail.
    pub fn can_fail(&self) -> bool {
        self.shared.is_some()
    }

    /// The same, where one model is at work.
    pub fn of_model(&self, model: &str) -> Self {
        Self { shared: self.shared.clone(), model: Arc::from(model) }
    }

    /// Has something fail.
    pub fn arm(&self, rule: FailRule) {
        if let Some(shared) = &self.shared {
            shared.lock().rules.push(rule);
        }
    }

    /// Has nothing fail any more, and lets go on what hangs.
    pub fn disarm(&self) {
        if let Some(shared) = &self.shared {
            let mut state = shared.lock();
            state.rules.clear();
            state.generation += 1;
            shared.disarmed.notify_all();
        }
    }

    /// How many failures there were.
    pub fn num_struck(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.lock().num_struck)
    }

    /// What is to happen at a place that is passed now.
    pub fn pass(&self, place: FailPlace) -> Option<FailAction> {
        self.pass_in(place).map(|(action, _)| action)
    }

    /// The same, with the generation that a hang lasts for.
    fn pass_in(&self, place: FailPlace) -> Option<(FailAction, u64)> {
        let mut state = self.shared.as_ref()?.lock();
        let rule = state.rules.iter_mut().find(|rule| rule.concerns(place, &self.model))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        let action = rule.action;
        state.rules.retain(|rule| rule.times > 0);
        state.num_struck += 1;
        Some((action, state.generation))
    }

    /// Passes a place on a thread that may block, and lets happen there what is to happen.
    ///
    /// # Errors
    /// [`FailAction::Error`].
    ///
    /// # Panics
    /// [`FailAction::Panic`]; and with [`Killed`] for [`FailAction::Kill`].
    pub fn strike(&self, place: FailPlace) -> Result<(), String> {
        let Some((action, generation)) = self.pass_in(place) else { return Ok(()) };
        match action {
            FailAction::Error => return Err(told(place)),
            FailAction::Panic => panic!("{}", told(place)),
            FailAction::Kill => resume_unwind(Box::new(Killed)),
            FailAction::Delay(delay) => self.wait(generation, Some(delay)),
            FailAction::Hang => self.wait(generation, None),
        }
        Ok(())
    }

    /// Blocks until the generation is over, at most for so long.
    fn wait(&self, generation: u64, at_most: Option<Duration>) {
        let Some(shared) = &self.shared else { return };
        let until = at_most.map(|at_most| Instant::now() + at_most);
        let mut state = shared.lock();
        while state.generation == generation {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    shared.disarmed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.disarmed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// What a failure at a place says.
pub fn told(place: FailPlace) -> String {
    format!("the {place} was told to fail")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failpoints").field("can_fail", &self.can_fail()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_rule_strikes_where_and_as_often_as_it_says() {
        let points = Failpoints::new();
        let rule = FailRule {
            model: Some("org/a".into()),
            skip: 1,
            times: 2,
            ..FailRule::once(FailPlace::Stepper, FailAction::Error)
        };
        points.arm(rule);
        let (a, other) = (points.of_model("org/a@main"), points.of_model("org/another@main"));
        assert_eq!(a.strike(FailPlace::Batcher), Ok(()));
        assert_eq!(other.strike(FailPlace::Stepper), Ok(()));
        let struck = (0..4).map(|_| a.strike(FailPlace::Stepper).is_err()).collect::<Vec<_>>();
        assert_eq!(struck, [false, true, true, false]);
        assert_eq!(points.num_struck(), 2);
    }

    #[test]
    fn what_hangs_goes_on_when_it_is_disarmed() {
        let points = Failpoints::new();
        points.arm(FailRule::once(FailPlace::Tokenizer, FailAction::Hang));
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| points.strike(FailPlace::Tokenizer));
            while points.num_struck() == 0 {
                std::thread::yield_now();
            }
            points.disarm();
            assert_eq!(hung.join().expect("it comes back"), Ok(()));
        });
    }

    #[test]
    fn a_kill_unwinds_as_such() {
        let points = Failpoints::new();
        points.arm(FailRule::once(FailPlace::Stepper, FailAction::Kill));
        let killed = catch_unwind(AssertUnwindSafe(|| points.strike(FailPlace::Stepper)));
        assert!(killed.expect_err("it ends").is::<Killed>());
    }

    #[test]
    fn nothing_fails_by_default() {
        let points = Failpoints::default();
        points.arm(FailRule::once(FailPlace::Sse, FailAction::Panic));
        assert_eq!(points.strike(FailPlace::Sse), Ok(()));
        assert!(!points.can_fail());
    }
}
