//! The command line: what can be said, and which setting each flag is for. Values are only collected here; they are
//! checked with all other settings, so that a flag, a variable and a line of the file get the same answer.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use config::ValueKind;

use crate::settings::FlagValue;

/// One binary that serves Hugging Face models behind the OpenAI HTTP API.
#[derive(Debug, Parser)]
#[command(name = "candlewick", version, about, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Begin with `candlewick chat`: it needs no network and no model.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models over HTTP
    Serve(Box<ServeArgs>),
    /// Talk to a model, on a server or without one
    Chat(Box<ChatArgs>),
    /// Bring a model's files into the cache
    Download(DownloadArgs),
    /// List the models that need no network
    Models(SettingsArgs),
    /// Ask a server whether it is alive: exits with 0 if it says so, else with 1
    Health(HealthArgs),
    /// Check or show the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a script that completes this command in a shell
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// Where settings are read from, beside flags.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings file, in place of ./config/candlewick.toml or ~/.config/candlewick/candlewick.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Lowest level that is logged: off, error, warning, info, debug, trace, or filter directives
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// How log lines are written: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl SettingsArgs {
    /// The settings among these flags.
    pub fn flags(&self) -> Vec<FlagValue> {
        [text("log-level", &self.log_level), text("log-format", &self.log_format)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// `candlewick health`
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Its address, such as http://localhost:8000; without one it is where `candlewick serve` would listen
    pub url: Option<String>,

    /// Where settings are read from
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// `candlewick serve`
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// The one model to serve: `org/name[@revision][:file.gguf]`, a folder, or candlewick/ember, which is built in.
    /// Without it every request names its model, which is loaded when it is first asked for
    pub model: Option<String>,

    /// Where settings are read from
    #[command(flatten)]
    pub settings: SettingsArgs,

    /// Lets whoever asks `/debug/failpoints` have things break (docs/reliability.md). Never for a server that others use
    #[arg(long, hide = true)]
    pub failpoints: bool,
    /// Other names for that model, separated by commas
    #[arg(long, value_name = "NAMES")]
    pub served_model_name: Option<String>,

    /// Models to load at the start and keep, separated by commas
    #[arg(long, value_name = "MODELS")]
    pub preload: Option<String>,

    /// Name or address to listen at [default: localhost]
    #[arg(long, value_name = "HOST", help_heading = "Server")]
    pub host: Option<String>,

    /// Port to listen at; 0 takes any free one [default: 8000]
    #[arg(long, value_name = "PORT", help_heading = "Server")]
    pub port: Option<String>,

    /// A key that clients may show, or "NAME KEY"; repeat it for more. Without any, everybody may ask
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub api_key: Vec<String>,

    /// A file of such keys, one a line, in place of the command line, which others can see
    #[arg(long, value_name = "FILE", help_heading = "Server", value_hint = ValueHint::FilePath)]
    pub api_key_file: Option<String>,

    /// Answer web pages of every origin
    #[arg(long, help_heading = "Server", overrides_with = "no_enable_cors")]
    pub enable_cors: bool,

    /// See --enable-cors
    #[arg(long, hide = true, overrides_with = "enable_cors")]
    pub no_enable_cors: bool,

    /// Collector that traces are sent to, such as http://localhost:4317 [default: none]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub otlp_endpoint: Option<String>,

    /// How it is spoken to: grpc or http [default: grpc]
    #[arg(long, value_name = "PROTOCOL", help_heading = "Server")]
    pub otlp_protocol: Option<String>,

    /// Time that requests in flight have to finish when the server is asked to end [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Server")]
    pub drain_timeout: Option<String>,

    /// Folder in which responses are kept [default: ~/.local/share/candlewick]
    #[arg(long, value_name = "FOLDER", help_heading = "Server", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<String>,

    /// Keep no responses: `store`, `previous_response_id` and `background` are refused
    #[arg(long, help_heading = "Server", overrides_with = "store")]
    pub no_store: bool,

    /// See --no-store
    #[arg(long, hide = true, overrides_with = "no_store")]
    pub store: bool,

    /// Most likely tokens that requests may ask for with log-probabilities; -1 sets no limit [default: 20]
    #[arg(long, value_name = "COUNT", help_heading = "Server", allow_negative_numbers = true)]
    pub max_logprobs: Option<String>,

    /// Let requests bring a chat template of their own
    #[arg(long, help_heading = "Server")]
    pub trust_request_chat_template: bool,

    /// Refuse requests with fields that are not known, in place of ignoring those
    #[arg(long, help_heading = "Server")]
    pub strict_fields: bool,

    /// Answer web pages of these origins only, such as `https://example.org,http://localhost:3000`
    #[arg(long, value_name = "ORIGINS", help_heading = "Server")]
    pub allowed_origins: Option<String>,

    /// Names under which chat answers tell reasoning: both, reasoning, reasoning_content [default: both]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub reasoning_field: Option<String>,

    /// Precision of the weights: auto, float32, float16, bfloat16 [default: auto]
    #[arg(long, value_name = "DTYPE", help_heading = "Models")]
    pub dtype: Option<String>,

    /// Quantise weights as they are loaded: int8, q8_0, q4_0, q4_1; q4_k, bnb-8bit and bnb-4bit mean the nearest of these
    #[arg(long, value_name = "SCHEME", help_heading = "Models")]
    pub quantization: Option<String>,

    /// Where to run: auto or cpu [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Models")]
    pub device: Option<String>,

    /// Seconds (or 90s, 5m, …) of idleness after which a model is unloaded; 0 or less never does [default: 300]
    #[arg(long, value_name = "TIME", help_heading = "Models", allow_hyphen_values = true)]
    pub model_timeout: Option<String>,

    /// Longest context in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", help_heading = "Models")]
    pub max_model_len: Option<String>,

    /// Seed of requests that bring none [default: a new one for each]
    #[arg(long, value_name = "SEED", help_heading = "Models", allow_negative_numbers = true)]
    pub default_seed: Option<String>,

    /// Ask models that can reason to do so: on, off, auto [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = "Models")]
    pub reasoning: Option<String>,

    /// What reads tool calls, in place of what the model's template shows: deepseek_v3, deepseek_v31, gemma4, glm45, glm47,
    /// granite, harmony, hermes, lfm2, llama3_json, llama4_json, llama4_pythonic, mistral, openai, phi4_mini_json,
    /// pythonic, qwen3_coder, qwen3_xml
    #[arg(long, value_name = "NAME", help_heading = "Models")]
    pub tool_call_parser: Option<String>,

    /// A chat template in place of the models' own: a file, or the Jinja text itself
    #[arg(long, value_name = "TEMPLATE", help_heading = "Models")]
    pub chat_template: Option<String>,

    /// Variables for the chat template, as a JSON object
    #[arg(long, value_name = "JSON", help_heading = "Models")]
    pub chat_template_kwargs: Option<String>,

    /// Folder of the Hub's cache [default: that of Hugging Face's own tools]
    #[arg(long, value_name = "FOLDER", help_heading = "Models", value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<String>,

    /// Sequences of one model that generate at once; a request has one for each choice [default: 64]
    #[arg(long, value_name = "COUNT", help_heading = "Engine")]
    pub max_running: Option<String>,

    /// Sequences of one model that wait; one more is refused with 429 [default: 256]
    #[arg(long, value_name = "COUNT", help_heading = "Engine")]
    pub max_queued: Option<String>,

    /// Longest that a request may take, waiting included [default: never]
    #[arg(long, value_name = "TIME", help_heading = "Engine")]
    pub request_timeout: Option<String>,

    /// Memory for the KV cache of one model, such as 4GiB [default: a share of what is free]
    #[arg(long, value_name = "SIZE", help_heading = "Engine")]
    pub kv_cache_memory: Option<String>,

    /// What the KV cache keeps: auto, float32, float16, bfloat16, int8 [default: auto]
    #[arg(long, value_name = "TYPE", help_heading = "Engine")]
    pub kv_cache_dtype: Option<String>,

    /// Memory that the whole process should keep below, such as 8GiB [default: what container and machine have]
    #[arg(long, value_name = "SIZE", help_heading = "Engine")]
    pub memory_limit: Option<String>,

    /// What computes: auto, reference (plain candle), or less than the machine has: portable, avx2, … [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Engine")]
    pub kernels: Option<String>,

    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "COUNT", help_heading = "Engine")]
    pub threads: Option<String>,

    /// Tokens in a block of the KV cache [default: 16]
    #[arg(long, value_name = "TOKENS", help_heading = "Engine")]
    pub cb_block_size: Option<String>,

    /// Blocks of KV cache, in place of --kv-cache-memory
    #[arg(long, value_name = "COUNT", help_heading = "Engine")]
    pub cb_num_blocks: Option<String>,

    /// Tokens computed in one step [default: 512]
    #[arg(long, value_name = "TOKENS", help_heading = "Engine")]
    pub cb_max_batch_tokens: Option<String>,

    /// How long a step in which somebody is answered should take at most, for prompts that are read beside it; 0 for as
    /// long as it takes [default: 200ms]
    #[arg(long, value_name = "TIME", help_heading = "Engine")]
    pub max_inter_token: Option<String>,

    /// Guess what is said next by what followed the same tokens before: ngram, off [default: ngram]
    #[arg(long, value_name = "MODE", help_heading = "Engine")]
    pub speculation: Option<String>,

    /// Tokens of an answer that are guessed in one step [default: 16]
    #[arg(long, value_name = "TOKENS", help_heading = "Engine")]
    pub max_draft_tokens: Option<String>,

    /// A smaller model of the same tokenizer that guesses for MODEL, where that is faster
    #[arg(long, value_name = "ID", help_heading = "Engine")]
    pub draft_model: Option<String>,

    /// Share of free memory for the KV cache, between 0 and 1 [default: 0.3]
    #[arg(long, value_name = "SHARE", help_heading = "Engine")]
    pub cb_max_memory_percent: Option<String>,

    /// What other servers take
    #[command(flatten)]
    pub foreign: ForeignArgs,
}

/// Flags of `transformers serve` that mean nothing here: accepted, so that a command line can be taken over as it is, and
/// explained. Those whose neglect would give other answers than asked for are refused.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Accepted from other servers, and explained")]
pub struct ForeignArgs {
    /// No effect: requests are always batched continuously
    #[arg(long)]
    pub continuous_batching: bool,
    /// No effect: requests are always batched continuously
    #[arg(long, hide = true)]
    pub no_continuous_batching: bool,
    /// No effect: there is one attention implementation
    #[arg(long, value_name = "NAME")]
    pub attn_implementation: Option<String>,
    /// No effect: nothing is compiled at run time
    #[arg(long)]
    pub compile: bool,
    /// No effect: nothing is compiled at run time
    #[arg(long, hide = true)]
    pub no_compile: bool,
    /// No effect: no code of a model repository is ever run
    #[arg(long)]
    pub trust_remote_code: bool,
    /// No effect: no code of a model repository is ever run
    #[arg(long, hide = true)]
    pub no_trust_remote_code: bool,
    /// No effect: this build has no CUDA device
    #[arg(long)]
    pub cb_use_cuda_graph: bool,
    /// No effect: this build has no CUDA device
    #[arg(long, hide = true)]
    pub no_cb_use_cuda_graph: bool,
    /// No effect: the port opens at once in any case
    #[arg(long, hide = true)]
    pub non_blocking: bool,
    /// Refused: not built yet
    #[arg(long, value_name = "FILE")]
    pub decision_config: Option<String>,
}

impl ForeignArgs {
    /// One line for each flag that was given without effect. Fails where ignoring it would not do.
    pub fn explain(&self) -> Result<Vec<String>, String> {
        if self.decision_config.is_some() {
            return Err(
                "--decision-config: typed decisions (/v1/systemone) are not built yet; leave the flag out"
                    .into(),
            );
        }
        let batching = "has no effect: requests are always batched continuously";
        let compile = "has no effect: nothing is compiled at run time";
        let code = "has no effect: no code of a model repository is ever run";
        let graph = "has no effect: this build has no CUDA device";
        let given = [
            (self.continuous_batching, "--continuous-batching", batching),
            (self.no_continuous_batching, "--no-continuous-batching", batching),
            (
                self.attn_implementation.is_some(),
                "--attn-implementation",
                "has no effect: there is one implementation",
            ),
            (self.compile, "--compile", compile),
            (self.no_compile, "--no-compile", compile),
            (self.trust_remote_code, "--trust-remote-code", code),
            (self.no_trust_remote_code, "--no-trust-remote-code", code),
            (self.cb_use_cuda_graph, "--cb-use-cuda-graph", graph),
            (self.no_cb_use_cuda_graph, "--no-cb-use-cuda-graph", graph),
            (self.non_blocking, "--non-blocking", "has no effect: the port opens at once in any case"),
        ];
        Ok(given
            .into_iter()
            .filter(|(given, ..)| *given)
            .map(|(_, flag, why)| format!("{flag} {why}"))
            .collect())
    }
}

impl ServeArgs {
    /// The settings among these flags.
    pub fn flags(&self) -> Vec<FlagValue> {
        let cors = match (self.enable_cors, self.no_enable_cors) {
            (false, false) => None,
            (enable, _) => Some(FlagValue::new("enable-cors", enable)),
        };
        let store = match (self.store, self.no_store) {
            (false, false) => None,
            (store, _) => Some(FlagValue::new("store", store)),
        };
        let keys = (!self.api_key.is_empty())
            .then(|| FlagValue::new("api-key", ValueKind::from(self.api_key.clone())));
        let texts = [
            text("model", &self.model),
            text("served-model-name", &self.served_model_name),
            text("preload", &self.preload),
            text("drain-timeout", &self.drain_timeout),
            text("otlp-endpoint", &self.otlp_endpoint),
            text("otlp-protocol", &self.otlp_protocol),
            text("host", &self.host),
            text("port", &self.port),
            text("api-key-file", &self.api_key_file),
            text("allowed-origins", &self.allowed_origins),
            text("reasoning-field", &self.reasoning_field),
            text("tool-call-parser", &self.tool_call_parser),
            text("max-logprobs", &self.max_logprobs),
            self.trust_request_chat_template.then(|| FlagValue::new("trust-request-chat-template", true)),
            self.strict_fields.then(|| FlagValue::new("strict-fields", true)),
            text("dtype", &self.dtype),
            text("quantization", &self.quantization),
            text("device", &self.device),
            text("model-timeout", &self.model_timeout),
            text("max-model-len", &self.max_model_len),
            text("default-seed", &self.default_seed),
            text("reasoning", &self.reasoning),
            text("chat-template", &self.chat_template),
            text("chat-template-kwargs", &self.chat_template_kwargs),
            text("cache-dir", &self.cache_dir),
            text("data-dir", &self.data_dir),
            text("max-running", &self.max_running),
            text("max-queued", &self.max_queued),
            text("request-timeout", &self.request_timeout),
            text("kv-cache-memory", &self.kv_cache_memory),
            text("kv-cache-dtype", &self.kv_cache_dtype),
            text("memory-limit", &self.memory_limit),
            text("kernels", &self.kernels),
            text("threads", &self.threads),
            text("cb-block-size", &self.cb_block_size),
            text("cb-num-blocks", &self.cb_num_blocks),
            text("cb-max-batch-tokens", &self.cb_max_batch_tokens),
            text("max-inter-token", &self.max_inter_token),
            text("speculation", &self.speculation),
            text("max-draft-tokens", &self.max_draft_tokens),
            text("draft-model", &self.draft_model),
            text("cb-max-memory-percent", &self.cb_max_memory_percent),
        ];
        let texts = texts.into_iter().flatten();
        self.settings.flags().into_iter().chain(texts).chain(cors).chain(store).chain(keys).collect()
    }
}

fn text(name: &'static str, value: &Option<String>) -> Option<FlagValue> {
    value.as_deref().map(|value| FlagValue::new(name, value))
}

/// `candlewick chat`
#[derive(Debug, Default, Args)]
pub struct ChatArgs {
    /// In any order: the model (default: what the server has pinned, or candlewick/ember), the address of a server
    /// (default: the one on this machine, or one started just for this talk), and request fields as key=value
    #[arg(value_name = "MODEL | URL | KEY=VALUE")]
    pub words: Vec<String>,

    /// Key for the server [default: $OPENAI_API_KEY]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Your name, as shown at the prompt
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// Where !save puts conversations
    #[arg(long, value_name = "FOLDER", default_value = "./chat_history", value_hint = ValueHint::DirPath)]
    pub save_folder: PathBuf,

    /// Where settings are read from, if a server is started
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// `candlewick download`
#[derive(Debug, Default, Args)]
pub struct DownloadArgs {
    /// `org/name[@revision]`, or `org/name:file.gguf` for that file alone
    pub model: String,

    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,

    /// Folder of the Hub's cache [default: that of Hugging Face's own tools]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<String>,

    /// Fetch again what is here already
    #[arg(long)]
    pub force_download: bool,

    /// No effect: no code of a model repository is ever run
    #[arg(long, hide = true)]
    pub trust_remote_code: bool,

    /// Where settings are read from
    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl DownloadArgs {
    /// The settings among these flags.
    pub fn flags(&self) -> Vec<FlagValue> {
        self.settings.flags().into_iter().chain(text("cache-dir", &self.cache_dir)).collect()
    }
}

/// `candlewick config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the settings are good, and what is wrong with them
    Check(SettingsArgs),
    /// Print every setting that holds, and where it was set
    Show(SettingsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use std::time::Duration;

    use super::*;
    use crate::settings::{Settings, Sources};
    use crate::settings_layers::SHORT_NAMES;

    fn serve(line: &str) -> ServeArgs {
        let words = ["candlewick", "serve"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Serve(args) => *args,
            other => panic!("not serve: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let args = serve(
            "org/m --served-model-name n,o --preload a/b --drain-timeout 9s --otlp-endpoint http://c:1 --otlp-protocol http --host 0.0.0.0 --port 0 --api-key a --api-key b,c --enable-cors --dtype bfloat16 --quantization q8_0 --device cpu \
             --model-timeout -1 --max-model-len 9 --default-seed 8 --reasoning on --chat-template t.jinja \
             --chat-template-kwargs {\"a\":1} --max-running 7 --max-queued 6 --request-timeout 90s --kv-cache-memory 5MiB --kv-cache-dtype int8 --memory-limit 9GiB --kernels portable --threads 4 \
             --cb-block-size 3 --cb-max-batch-tokens 2 --cb-max-memory-percent 0.5 --cache-dir c --log-level debug \
             --log-format json --api-key-file k.txt --allowed-origins http://a,https://b:8 --reasoning-field reasoning \
             --tool-call-parser hermes --max-logprobs -1 --trust-request-chat-template \
             --strict-fields --no-store --data-dir d --max-inter-token 50ms --speculation off --max-draft-tokens 3 --draft-model org/s",
        );
        let settings =
            Settings::load(&Sources { flags: args.flags(), ..Sources::default() }).expect("all good");
        let defaults = Settings::defaults();
        assert_eq!(settings.server.api_keys, ["a", "b,c"], "a key may hold a comma");
        assert_eq!(settings.server.allowed_origins, ["http://a", "https://b:8"]);
        assert_eq!(settings.models.tool_call_parser.as_deref(), Some("hermes"));
        assert_eq!(settings.models.aliases.keys().collect::<Vec<_>>(), ["n@main", "o@main"]);
        assert_eq!((settings.models.preload.len(), settings.server.drain_timeout.as_secs()), (1, 9));
        assert_eq!(settings.models.model_timeout, None);
        assert_eq!(settings.server.port, 0);
        assert_eq!(settings.engine.block_size, 3);
        assert_eq!(settings.engine.request_timeout, Some(Duration::from_secs(90)));
        assert_eq!(settings.server.max_logprobs, u32::MAX, "no limit");
        assert!(settings.server.strict_fields && settings.server.trust_request_chat_template);
        assert_eq!(settings.engine.drafts.keys().collect::<Vec<_>>(), ["org/m@main"]);
        assert_ne!(settings.engine.kv_cache, defaults.engine.kv_cache);
        let unset = [args.cb_num_blocks.is_none()].into_iter().filter(|unset| *unset).count();
        assert_eq!(args.flags().len() + unset, SHORT_NAMES.len(), "each short name is a flag");
    }

    #[test]
    fn the_help_lists_the_parsers_that_there_are() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("serve").expect("it is there").render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut names: Vec<&str> = candlewick_engine::text::tool_call_parsers().collect();
        names.sort_unstable();
        assert!(help.contains(&names.join(", ")), "{names:?} in {help}");
    }

    #[test]
    fn a_later_flag_takes_an_earlier_one_back() {
        let cors = |line: &str| {
            Settings::load(&Sources { flags: serve(line).flags(), ..Sources::default() })
                .expect("good")
                .server
                .enable_cors
        };
        assert!(cors("--no-enable-cors --enable-cors"));
        assert!(!cors("--enable-cors --no-enable-cors"));
    }

    #[test]
    fn flags_of_the_peer_are_explained_or_refused() {
        let explained =
            serve("--continuous-batching --attn-implementation sdpa --trust-remote-code --compile")
                .foreign
                .explain();
        assert_eq!(explained.expect("accepted").len(), 4);
        assert!(serve("").foreign.explain().expect("nothing to explain").is_empty());
        assert!(serve("--decision-config d.json").foreign.explain().unwrap_err().contains("not built yet"));
    }
}
