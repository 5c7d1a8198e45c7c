//! The spans of one request: admission, load, queue, prefill, decode, below one for the whole generation.
//!
//! Attributes go by OpenTelemetry's semantic conventions for generative AI; nothing of a prompt or an answer is in them. All
//! spans have one target, so that a subscriber takes or leaves them together: where nobody takes them, they cost a look at
//! a flag.

use candlewick_protocol::{
    EncodeRequest, ErrorKind, FinishReason, GenerationRequest, ModelRef, Prompt, Usage,
};
use tracing::field::Empty;
use tracing::{Span, info_span};

/// The target of all spans that are meant for traces and not for logs.
pub const SPANS: &str = "candlewick::spans";

/// The spans of one request.
pub struct Trace {
    /// What the request came in: where its lines in the log belong.
    caller: Span,
    generation: Span,
    phase: Option<Phase>,
    finish_reasons: Vec<&'static str>,
}

/// What a request is at, and the span of that.
struct Phase {
    at: Stage,
    _span: Span,
}

/// What a request is at, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its model is on its way into memory.
    Load,
    /// It waits for a place in the batch.
    Queue,
    /// Its prompt is computed.
    Prefill,
    /// Its tokens come.
    Decode,
}

impl Trace {
    /// Of a request for this model, below the span that it comes in.
    pub fn begin(request: &GenerationRequest, model: &ModelRef) -> Self {
        let sampling = &request.sampling;
        let operation = match request.prompt {
            Prompt::Chat(_) => "chat",
            _ => "text_completion",
        };
        let generation = info_span!(
            target: SPANS,
            "generation",
            otel.name = format!("{operation} {model}"),
            otel.status_code = Empty,
            error.type = Empty,
            gen_ai.operation.name = operation,
            gen_ai.provider.name = "candlewick",
            gen_ai.request.model = %model,
            gen_ai.request.choice.count = Empty,
            gen_ai.request.max_tokens = sampling.max_tokens.map(i64::from),
            gen_ai.request.temperature = sampling.temperature.map(f64::from),
            gen_ai.request.top_p = sampling.top_p.map(f64::from),
            gen_ai.request.top_k = sampling.top_k,
            gen_ai.request.seed = sampling.seed,
            gen_ai.request.frequency_penalty = sampling.frequency_penalty.map(f64::from),
            gen_ai.request.presence_penalty = sampling.presence_penalty.map(f64::from),
            gen_ai.response.model = Empty,
            gen_ai.response.finish_reasons = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.usage.cache_read.input_tokens = Empty,
            candlewick.request_id = %request.request_id,
        );
        if request.num_choices > 1 {
            generation.record("gen_ai.request.choice.count", i64::from(request.num_choices));
        }
        Self { caller: Span::current(), generation, phase: None, finish_reasons: Vec::new() }
    }

    /// Of texts to encode.
    pub fn begin_encoding(request: &EncodeRequest, model: &ModelRef) -> Self {
        let generation = info_span!(
            target: SPANS,
            "encoding",
            otel.name = format!("embeddings {model}"),
            otel.status_code = Empty,
            error.type = Empty,
            gen_ai.operation.name = "embeddings",
            gen_ai.provider.name = "candlewick",
            gen_ai.request.model = %model,
            gen_ai.response.model = Empty,
            gen_ai.usage.input_tokens = Empty,
            candlewick.request_id = %request.request_id,
        );
        Self { caller: Span::current(), generation, phase: None, finish_reasons: Vec::new() }
    }

    /// A span for the moment at the door.
    pub fn admission(&self) -> Span {
        info_span!(target: SPANS, parent: &self.generation, "admission")
    }

    /// The request has come to this stage; never back to one that it has left.
    pub fn enter(&mut self, at: Stage) {
        if self.phase.as_ref().is_some_and(|phase| phase.at >= at) {
            return;
        }
        // The one before ends first.
        self.phase = None;
        let parent = &self.generation;
        let span = match at {
            Stage::Load => info_span!(target: SPANS, parent: parent, "load"),
            Stage::Queue => info_span!(target: SPANS, parent: parent, "queue"),
            Stage::Prefill => info_span!(target: SPANS, parent: parent, "prefill"),
            Stage::Decode => info_span!(target: SPANS, parent: parent, "decode"),
        };
        self.phase = Some(Phase { at, _span: span });
    }

    /// The span that the request came in.
    pub fn caller(&self) -> &Span {
        &self.caller
    }

    /// The model that answers, by its full name.
    pub fn answered_by(&self, model: &str) {
        self.generation.record("gen_ai.response.model", model);
    }

    /// A choice has ended.
    pub fn ended(&mut self, reason: FinishReason) {
        self.finish_reasons.push(match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
        });
    }

    /// All is said.
    pub fn finished(&mut self, usage: &Usage) {
        self.phase = None;
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        // A list; whoever exports it takes it apart.
        self.generation.record("gen_ai.response.finish_reasons", self.finish_reasons.join(","));
        self.generation.record("gen_ai.usage.input_tokens", count(usage.prompt_tokens));
        self.generation.record("gen_ai.usage.output_tokens", count(usage.completion_tokens));
        self.generation.record("gen_ai.usage.cache_read.input_tokens", count(usage.cached_tokens));
    }

    /// It has failed.
    pub fn failed(&mut self, kind: ErrorKind) {
        self.phase = None;
        self.generation.record("error.type", tracing::field::debug(kind));
        self.generation.record("otel.status_code", "ERROR");
    }
}
