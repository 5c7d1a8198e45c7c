//! The actors, seen from outside: who is alive, in which state, under whom.

use serde::{Deserialize, Serialize};

use crate::{LoadStage, Progress};

/// What an actor or a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorRole {
    /// Supervises all.
    Root,
    /// Watches the settings.
    Settings,
    /// Sees to it that memory lasts.
    MemoryWatch,
    /// Knows the models.
    Models,
    /// Supervises one model.
    Model,
    /// Loads a model.
    Loader,
    /// Plans a model's steps.
    Batcher,
    /// Runs them: a thread.
    Stepper,
    /// Carries one request.
    Request,
    /// Runs background responses.
    Jobs,
    /// One of them: a task.
    Job,
}

impl ActorRole {
    /// Every role, from the root down.
    pub const ALL: [Self; 11] = [
        Self::Root,
        Self::Settings,
        Self::MemoryWatch,
        Self::Models,
        Self::Model,
        Self::Loader,
        Self::Batcher,
        Self::Stepper,
        Self::Request,
        Self::Jobs,
        Self::Job,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Settings => "settings",
            Self::MemoryWatch => "memory_watch",
            Self::Models => "models",
            Self::Model => "model",
            Self::Loader => "loader",
            Self::Batcher => "batcher",
            Self::Stepper => "stepper",
            Self::Request => "request",
            Self::Jobs => "jobs",
            Self::Job => "job",
        }
    }
}

/// The state of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    /// It does its work. What models do is told more exactly.
    Running,
    /// The model is on its way into memory.
    Loading,
    /// The model answers.
    Ready,
    /// The model answers, and has crashed a short while ago.
    Degraded,
    /// The model has crashed and is being started again; its requests wait.
    Restarting,
    /// The model does not answer; the reason says why.
    Failed,
}

/// An actor, and those it supervises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActorNode {
    /// What it does.
    pub role: ActorRole,
    /// Of which model or request; empty where there is but one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How it is.
    pub state: ActorState,
    /// Why it is so, if that needs a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since it was started.
    pub age_s: f64,
    /// Messages that wait for it; threads have no mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox_depth: Option<u64>,
    /// How often one in its place has crashed and was replaced.
    pub num_restarts: u64,
    /// What the last of those crashes said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// How far its load has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadPosition>,
    /// Those it supervises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ActorNode>,
}

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPosition {
    /// Where in it.
    pub stage: LoadStage,
    /// How far in the stage, if it is counted.
    pub progress: Option<Progress>,
}
