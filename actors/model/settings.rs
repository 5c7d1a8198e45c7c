//! The supervisor's part in a change of settings: what it reaches of a model that is in memory. Requests that were prepared
//! go on by what they were prepared with.

use std::sync::Arc;

use candlewick_engine::LoadError;
use candlewick_engine::text::TextProcessor;
use ractor::ActorRef;

use super::{ModelMsg, ModelState, Phase};
use crate::loader::LoadedModel;
use crate::tree::tell;

impl ModelState {
    pub(super) fn take_settings(&mut self, myself: &ActorRef<ModelMsg>) {
        let Phase::Loaded { model, batcher, .. } = &self.phase else { return };
        if let Some(batcher) = batcher {
            batcher.settings_changed();
        }
        self.retell(myself, model.clone());
        // Else each change would let an idle model live longer.
        if self.idle_timeout_set != self.idle_timeout() {
            self.settle(myself);
        }
    }

    /// Has the text processor made anew, if it was made by other options.
    pub(super) fn retell(&self, myself: &ActorRef<ModelMsg>, model: Arc<LoadedModel>) {
        let options = self.tree.text_options(&self.id);
        if *model.processor.options() == options {
            return;
        }
        let myself = myself.clone();
        tokio::task::spawn_blocking(move || {
            let processor = Box::new(model.processor.with_options(options));
            tell(&myself, ModelMsg::Retold(processor));
        });
    }

    pub(super) fn take_processor(&mut self, processor: Result<TextProcessor, LoadError>) {
        let Phase::Loaded { model, .. } = &mut self.phase else { return };
        match processor {
            Ok(processor) if *processor.options() == self.tree.text_options(&self.id) => {
                *model = Arc::new(model.with_processor(processor));
            }
            // The settings have changed again, and so has been made another.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(model = %self.id, "goes on with the chat template that it had: {error}");
            }
        }
    }
}
