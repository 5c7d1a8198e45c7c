//! One request from its texts to its answer: which tokens are encoded, how, and what is made of what comes out. Pure, but for
//! the tokenizer.

use std::sync::Arc;

use candlewick_protocol::{
    EncodeInput, EncodeInputs, EncodeOutput, EncodeWork, ErrorKind, Failure, LabelActivation, Prompt,
    PromptTruncation, Rows, TruncationSide,
};

use super::{EncodeTask, Encoded, EncoderAbility, EncoderInfo, EncoderInput, Matryoshka, SentenceStep};
use crate::text::{SecondText, TextLimit, TextProcessor};

/// Most numbers in an answer that has a row for each token: 128 MiB of them.
const NUM_NUMBERS_MAX: usize = 32 << 20;

/// A request's texts, and what came of them so far.
pub struct EncodeJob {
    task: EncodeTask,
    texts: Vec<Arc<EncoderInput>>,
    outputs: Vec<Option<Encoded>>,
    finish: Finish,
}

/// What is made of the outputs.
enum Finish {
    Vectors,
    Labels {
        names: Vec<String>,
        activation: LabelActivation,
        of_tokens: bool,
    },
    /// One output for each pair, of one number.
    Pairs {
        activation: LabelActivation,
    },
    /// Vectors, of which these are compared.
    Angles {
        pairs: Vec<[usize; 2]>,
    },
}

/// A model, as a request meets it.
#[derive(Clone, Copy)]
pub struct EncodeModel<'a> {
    /// What it is.
    pub encoder: &'a EncoderInfo,
    /// How it reads text.
    pub processor: &'a TextProcessor,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
}

impl EncodeJob {
    /// Reads a request's texts. Blocks for as long as they are long; the failure names the field at fault.
    ///
    /// # Errors
    /// `Unsupported` for what the model cannot do, `ContextOverflow` for a text that is too long, `InvalidRequest` for
    /// what no model could.
    pub fn prepare(
        work: &EncodeWork,
        truncation: Option<PromptTruncation>,
        model: EncodeModel<'_>,
    ) -> Result<Self, Failure> {
        let reader = Reader { truncation, prompt: "", num_prompt_tokens: 0, max_second_tokens: None, model };
        let (task, texts, finish) = match work {
            EncodeWork::Embed { inputs, of_tokens, dimensions, normalize, prompt_name } => {
                let dimensions = model.dimensions(*dimensions)?;
                let task = match of_tokens {
                    true => EncodeTask::EmbedTokens { dimensions, normalize: normalize.unwrap_or(false) },
                    false => EncodeTask::Embed { dimensions, normalize: *normalize },
                };
                let reader = reader.with_prompt(prompt_name.as_deref())?;
                (task, reader.read_all(inputs)?, Finish::Vectors)
            }
            EncodeWork::Own { inputs, normalize, .. } if model.makes_vectors() => {
                let task = EncodeTask::Embed { dimensions: None, normalize: *normalize };
                (task, reader.with_prompt(None)?.read_all(inputs)?, Finish::Vectors)
            }
            EncodeWork::Own { inputs, activation, .. } | EncodeWork::Classify { inputs, activation } => {
                let (names, own) = model.labels()?;
                let activation = activation.unwrap_or(own);
                let of_tokens = matches!(model.encoder.ability, EncoderAbility::ClassifyTokens { .. });
                let finish = Finish::Labels { names: names.to_vec(), activation, of_tokens };
                (EncodeTask::Classify, reader.read_all(inputs)?, finish)
            }
            EncodeWork::Compare { firsts, seconds, activation, max_second_tokens } => {
                let max_second_tokens = max_second_tokens.map(|num_tokens| num_tokens as usize);
                let reader = Reader { max_second_tokens, ..reader };
                let pairs = pair_up(firsts, seconds)?;
                match &model.encoder.ability {
                    EncoderAbility::Embed { .. } => {
                        let mut texts = reader.read_all(firsts)?;
                        let num_firsts = texts.len();
                        texts.extend(reader.of_seconds().read_all(seconds)?);
                        let pairs = pairs.map(|[first, second]| [first, num_firsts + second]).collect();
                        let task = EncodeTask::Embed { dimensions: None, normalize: None };
                        (task, texts, Finish::Angles { pairs })
                    }
                    EncoderAbility::Classify { labels, activation: own } if labels.len() == 1 => {
                        let texts =
                            pairs.map(|[first, second]| reader.read_pair(firsts, first, seconds, second));
                        let texts = texts.collect::<Result<_, _>>()?;
                        let activation = activation.unwrap_or(*own);
                        (EncodeTask::Classify, texts, Finish::Pairs { activation })
                    }
                    EncoderAbility::Classify { .. } | EncoderAbility::ClassifyTokens { .. } => {
                        return Err(model.cannot("compare texts"));
                    }
                }
            }
        };
        let outputs = texts.iter().map(|_| None).collect();
        let job = Self { task, texts, outputs, finish };
        model.check_size(&job)?;
        Ok(job)
    }

    /// What is wanted of each text.
    pub fn task(&self) -> EncodeTask {
        self.task
    }

    /// The texts that nothing came of yet, by index.
    pub fn missing(&self) -> Vec<(u32, Arc<EncoderInput>)> {
        let texts = (0u32..).zip(&self.texts).zip(&self.outputs);
        texts.filter(|(_, output)| output.is_none()).map(|((index, text), _)| (index, text.clone())).collect()
    }

    /// Tokens of all texts.
    pub fn num_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.token_ids.len()).sum()
    }

    /// How many texts there are.
    pub fn num_texts(&self) -> usize {
        self.texts.len()
    }

    /// What came of a text.
    pub fn take(&mut self, index: u32, output: Encoded) {
        if let Some(place) = self.outputs.get_mut(index as usize) {
            *place = Some(output);
        }
    }

    /// The answer, once there is an output of each text.
    pub fn answer(&mut self) -> Option<EncodeOutput> {
        if self.outputs.iter().any(Option::is_none) {
            return None;
        }
        let rows = |Encoded { values, width }| Rows { values, width };
        let outputs = std::mem::take(&mut self.outputs).into_iter().flatten().map(rows);
        Some(match &self.finish {
            Finish::Vectors => EncodeOutput::Vectors(outputs.collect()),
            Finish::Labels { names, activation, of_tokens } => {
                let mut scores: Vec<Rows> = outputs.collect();
                scores.iter_mut().for_each(|rows| activate(rows, *activation));
                EncodeOutput::Labels { names: names.clone(), scores, of_tokens: *of_tokens }
            }
            Finish::Pairs { activation } => {
                let mut scores = Rows {
                    values: outputs.filter_map(|rows| rows.values.first().copied()).collect(),
                    width: 1,
                };
                activate(&mut scores, *activation);
                EncodeOutput::Scores(scores.values)
            }
            Finish::Angles { pairs } => {
                let vectors: Vec<Rows> = outputs.collect();
                let angle =
                    |[first, second]: &[usize; 2]| cosine(&vectors[*first].values, &vectors[*second].values);
                EncodeOutput::Scores(pairs.iter().map(angle).collect())
            }
        })
    }
}

/// Each first text with its second one.
fn pair_up(
    firsts: &EncodeInputs,
    seconds: &EncodeInputs,
) -> Result<impl Iterator<Item = [usize; 2]> + use<>, Failure> {
    let (num_firsts, num_seconds) = (firsts.inputs.len(), seconds.inputs.len());
    if num_firsts != 1 && num_firsts != num_seconds {
        let (first, second) = (&firsts.param, &seconds.param);
        let message = format!(
            "`{first}` has {num_firsts} texts and `{second}` has {num_seconds}; send as many of both, or one `{first}`"
        );
        return Err(Failure::invalid(first, message));
    }
    Ok((0..num_seconds).map(move |second| [if num_firsts == 1 { 0 } else { second }, second]))
}

impl EncodeModel<'_> {
    fn makes_vectors(&self) -> bool {
        matches!(self.encoder.ability, EncoderAbility::Embed { .. })
    }

    fn cannot(&self, what: &str) -> Failure {
        let message = format!("this model cannot {what}: {}", self.encoder.ability);
        Failure::new(ErrorKind::Unsupported, message).with_param("model")
    }

    /// An answer with a row for each token may be a hundred times as large as its texts.
    fn check_size(&self, job: &EncodeJob) -> Result<(), Failure> {
        let width = match (&self.encoder.ability, job.task) {
            (EncoderAbility::Embed { dimensions, .. }, EncodeTask::EmbedTokens { dimensions: asked, .. }) => {
                asked.unwrap_or(*dimensions)
            }
            (EncoderAbility::ClassifyTokens { labels }, _) => labels.len(),
            _ => return Ok(()),
        };
        let num_numbers = job.num_tokens().saturating_mul(width);
        if num_numbers <= NUM_NUMBERS_MAX {
            return Ok(());
        }
        let message = format!(
            "a row for each token would be {num_numbers} numbers, and an answer has at most {NUM_NUMBERS_MAX}; send fewer texts \
             at a time"
        );
        Err(Failure::new(ErrorKind::InvalidRequest, message))
    }

    fn labels(&self) -> Result<(&[String], LabelActivation), Failure> {
        match &self.encoder.ability {
            EncoderAbility::Classify { labels, activation } => Ok((labels, *activation)),
            EncoderAbility::ClassifyTokens { labels } => Ok((labels, LabelActivation::Softmax)),
            EncoderAbility::Embed { .. } => Err(self.cannot("label texts")),
        }
    }

    /// How many elements of a vector are kept.
    fn dimensions(&self, asked: Option<u32>) -> Result<Option<usize>, Failure> {
        let EncoderAbility::Embed { dimensions, matryoshka } = &self.encoder.ability else {
            return Err(self.cannot("make vectors of texts"));
        };
        let Some(asked) = asked.map(|asked| asked as usize) else { return Ok(None) };
        if asked == 0 || asked > *dimensions {
            let message = format!("`dimensions` must be from 1 to the model's {dimensions}, not {asked}");
            return Err(Failure::invalid("dimensions", message));
        }
        let allowed = match matryoshka {
            _ if asked == *dimensions => return Ok(None),
            Matryoshka::Any => return Ok(Some(asked)),
            Matryoshka::Only(lengths) if lengths.contains(&asked) => return Ok(Some(asked)),
            Matryoshka::Only(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
                format!("its vectors may have {} elements", lengths.join(", "))
            }
            Matryoshka::No => format!(
                "it does not say that shorter vectors mean anything (`is_matryoshka` or `matryoshka_dimensions` in its \
                 config.json); leave `dimensions` out for all {dimensions} elements"
            ),
        };
        let message = format!("this model's vectors cannot be cut to {asked} elements: {allowed}");
        Err(Failure::new(ErrorKind::Unsupported, message).with_param("dimensions"))
    }
}

/// Reads texts as one request wants them read.
struct Reader<'a> {
    truncation: Option<PromptTruncation>,
    /// Put before each text.
    prompt: &'a str,
    /// Its tokens, where a pooling leaves them out.
    num_prompt_tokens: usize,
    /// The second text of a pair is cut to so many tokens first.
    max_second_tokens: Option<usize>,
    model: EncodeModel<'a>,
}

impl<'a> Reader<'a> {
    /// Of second texts that are read by themselves.
    fn of_seconds(&self) -> Self {
        let Self { truncation, prompt, num_prompt_tokens, max_second_tokens, model } = *self;
        let shorter = max_second_tokens.map(|max_tokens| {
            let own = truncation.and_then(|truncation| truncation.num_tokens);
            let max_tokens = u32::try_from(max_tokens).unwrap_or(u32::MAX);
            PromptTruncation {
                num_tokens: Some(own.map_or(max_tokens, |own| own.min(max_tokens))),
                side: truncation.map_or(TruncationSide::Right, |truncation| truncation.side),
            }
        });
        Self { truncation: shorter.or(truncation), prompt, num_prompt_tokens, max_second_tokens, model }
    }

    /// With one of the model's prompts before each text: the one that is named, or the one it has for those who name none.
    fn with_prompt(self, name: Option<&str>) -> Result<Self, Failure> {
        let layout = &self.model.encoder.layout;
        let Some(name) = name.or(layout.default_prompt.as_deref()) else { return Ok(self) };
        let Some(prompt) = layout.prompts.get(name) else {
            let names: Vec<&str> = layout.prompts.keys().map(String::as_str).collect();
            let there_are = match names.is_empty() {
                true => "it has none".to_owned(),
                false => format!("those that it has: {}", names.join(", ")),
            };
            let message = format!("this model has no prompt of the name {name:?}; {there_are}");
            return Err(Failure::invalid("prompt_name", message));
        };
        let leaves_out =
            |step: &SentenceStep| matches!(step, SentenceStep::Pool(pool) if !pool.include_prompt);
        let num_prompt_tokens = match layout.steps.iter().any(leaves_out) && !prompt.is_empty() {
            true => self.model.processor.num_prefix_tokens(prompt)?,
            false => 0,
        };
        Ok(Self { prompt, num_prompt_tokens, ..self })
    }

    fn read_all(&self, inputs: &EncodeInputs) -> Result<Vec<Arc<EncoderInput>>, Failure> {
        let texts = inputs.inputs.iter().enumerate();
        texts.map(|(index, input)| self.read(input, &inputs.path(index))).collect()
    }

    fn read(&self, input: &EncodeInput, path: &str) -> Result<Arc<EncoderInput>, Failure> {
        let processor = self.model.processor;
        let read = match input {
            EncodeInput::Text { text, add_special_tokens } => {
                let text = self.spelled(&format!("{}{text}", self.prompt));
                let read = processor.encoder_input(&text, None, *add_special_tokens, self.limit())?;
                EncoderInput { num_prompt_tokens: self.num_prompt_tokens, ..read }
            }
            EncodeInput::Pair(first, second) => {
                let (first, second) = (self.spelled(first), self.spelled(second));
                let second = SecondText { text: &second, max_tokens: self.max_second_tokens };
                processor.encoder_input(&first, Some(second), true, self.limit())?
            }
            EncodeInput::Tokens(ids) => self.of_ids(ids),
            EncodeInput::Chat(chat) => {
                self.of_ids(&processor.prepare(&Prompt::Chat(chat.clone()))?.token_ids)
            }
        };
        self.check(read, path).map(Arc::new)
    }

    fn read_pair(
        &self,
        firsts: &EncodeInputs,
        first: usize,
        seconds: &EncodeInputs,
        second: usize,
    ) -> Result<Arc<EncoderInput>, Failure> {
        let text = |inputs: &EncodeInputs, index: usize| match &inputs.inputs[index] {
            EncodeInput::Text { text, .. } => Ok(text.clone()),
            EncodeInput::Pair(..) | EncodeInput::Tokens(_) | EncodeInput::Chat(_) => {
                let path = inputs.path(index);
                let message =
                    format!("`{path}` must be text: this model reads both texts of a pair together");
                Err(Failure::invalid(path, message))
            }
        };
        self.read(&EncodeInput::Pair(text(firsts, first)?, text(seconds, second)?), &seconds.path(second))
    }

    /// As the model was taught to read.
    fn spelled(&self, text: &str) -> String {
        if self.model.encoder.layout.lowercase { text.to_lowercase() } else { text.to_owned() }
    }

    fn limit(&self) -> Option<TextLimit> {
        let PromptTruncation { num_tokens, side } = self.truncation?;
        let max_tokens = num_tokens.map_or(usize::MAX, |num_tokens| num_tokens as usize);
        Some(TextLimit { max_tokens: max_tokens.min(self.model.max_tokens), side })
    }

    fn of_ids(&self, ids: &[u32]) -> EncoderInput {
        let kept = match self.limit() {
            Some(TextLimit { max_tokens, side: TruncationSide::Right }) => &ids[..ids.len().min(max_tokens)],
            Some(TextLimit { max_tokens, side: TruncationSide::Left }) => {
                &ids[ids.len().saturating_sub(max_tokens)..]
            }
            None => ids,
        };
        EncoderInput { token_ids: kept.to_vec(), type_ids: Vec::new(), num_prompt_tokens: 0 }
    }

    /// Whether the model can take it.
    fn check(&self, input: EncoderInput, path: &str) -> Result<EncoderInput, Failure> {
        let EncodeModel { max_tokens, vocab_size, .. } = self.model;
        let len = input.token_ids.len();
        if len == 0 {
            return Err(Failure::invalid(
                path,
                format!("`{path}` has no tokens; send at least one character"),
            ));
        }
        if let Some(limit) = self.limit().filter(|limit| len > limit.max_tokens) {
            let message = format!(
                "what the tokenizer puts around a text takes {len} tokens, and it is to be cut to {}",
                limit.max_tokens
            );
            return Err(Failure::invalid("truncate_prompt_tokens", message));
        }
        if len > max_tokens {
            let message = format!(
                "`{path}` has {len} tokens, and this model reads at most {max_tokens}; send less, or have it cut with \
                 `truncate_prompt_tokens` (-1 keeps as much as the model reads)"
            );
            return Err(Failure::new(ErrorKind::ContextOverflow, message).with_param(path));
        }
        if let Some(id) = input.token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            let message = format!("token {id} is outside the model's vocabulary of {vocab_size} tokens");
            return Err(Failure::invalid(path, message));
        }
        Ok(input)
    }
}

/// From scores to what is told, row by row.
fn activate(rows: &mut Rows, activation: LabelActivation) {
    match activation {
        LabelActivation::Identity => {}
        LabelActivation::Sigmoid => {
            rows.values.iter_mut().for_each(|x| *x = (1.0 / (1.0 + f64::from(-*x).exp())) as f32);
        }
        LabelActivation::Softmax => {
            for row in rows.values.chunks_exact_mut(rows.width.max(1)) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let parts: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
                let total: f64 = parts.iter().sum();
                row.iter_mut().zip(parts).for_each(|(x, part)| *x = (part / total) as f32);
            }
        }
    }
}

/// The cosine of the angle between two vectors; zero if one of them has no direction.
fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    if lengths == 0.0 { 0.0 } else { (dot(one, other) / lengths) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_by_themselves_or_come_to_one() {
        let activated = |activation| {
            let mut rows = Rows { values: vec![0.0, 2.0, 1000.0, -1000.0], width: 2 };
            activate(&mut rows, activation);
            rows.values
        };
        assert_eq!(activated(LabelActivation::Identity), [0.0, 2.0, 1000.0, -1000.0]);
        assert_eq!(activated(LabelActivation::Sigmoid), [0.5, 0.880_797_1, 1.0, 0.0]);
        assert_eq!(activated(LabelActivation::Softmax), [0.119_202_92, 0.880_797_1, 1.0, 0.0]);
    }

    #[test]
    fn the_cosine_is_of_the_angle_alone() {
        assert_eq!(cosine(&[3.0, 0.0], &[0.5, 0.0]), 1.0);
        assert_eq!(cosine(&[3.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-2.0, -2.0]), -1.0);
        assert_eq!(cosine(&[1.0, 1.0], &[0.0, 0.0]), 0.0);
    }
}
