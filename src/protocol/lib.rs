//! The words that Candlewick's rooms share: ids, requests, events, progress and error kinds.
//!
//! Everything here is plain data that serde could write, so that a model's subtree may one day run in another process.
//! There is no I/O in this room, it knows no other room, and OpenAI's JSON is not spoken here: `api` translates.

mod constraint;
mod encode;
mod error;
mod event;
mod failpoint;
mod generation_config;
mod grammar;
mod id;
mod load;
mod quote;
mod record;
mod request;
mod text;
mod tree;

pub use constraint::{Constraint, JsonLayout, OutputForm, TaggedStructure};
pub use encode::{
    EncodeAnswer, EncodeInput, EncodeInputs, EncodeOutput, EncodeRequest, EncodeWork, LabelActivation, Rows,
};
pub use error::{ErrorKind, Failure};
pub use event::{
    Delta, Event, FinishReason, Finished, Piece, Started, StopCause, TokenLogprob, TopLogprob, Usage,
};
pub use failpoint::{FailAction, FailPlace, FailRule, Failpoints, Killed, told as failpoint_told};
pub use grammar::EventGrammar;
pub use id::{ModelRef, ModelRefError, RequestId, RequestKey};
pub use load::{LoadEvent, LoadStage, ModelCard, ModelStatus, Progress, ProgressUnit, ServerStatus};
pub use quote::{clipped, clipped_at, quoted};
pub use record::{LoggedEvent, ResponseRecord, StoredResponse, log_compactly};
pub use request::{
    AllowedMode, ChatPrompt, Content, ContentPart, GenerationRequest, Message, OutputOptions, Prompt,
    PromptTruncation, RepetitionDetection, SamplingOptions, Search, Share, ToolCall, ToolChoice,
    TruncationSide, merge_sampling,
};
pub use text::{LocatedToken, TextAnswer, TextOutput, TextRequest, TextTask};
pub use tree::{ActorNode, ActorRole, ActorState, LoadPosition};
