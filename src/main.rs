//! The program: reads what was said (command line, environment, settings file), starts logging and a runtime, and hands
//! over to the command. After this file nobody looks at the environment.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use candlewick::cli::{Cli, Command, ConfigCommand, SettingsArgs};
use candlewick::live_settings::Watched;
use candlewick::service_manager::ServiceManager;
use candlewick::settings::{FlagValue, Place, Settings};
use candlewick::settings_files::SettingsFiles;
use candlewick::settings_layers::Layered;
use candlewick::telemetry::Telemetry;
use candlewick::{chat, download, health, list_models, logging, serve, show_settings};
use clap::{CommandFactory, Parser};
use tokio::runtime::Runtime;

// Large tensors come and go with every step; this allocator keeps their pages instead of giving them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of the system may hang in a download or a load when the program ends; they are not waited for longer.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has stopped reading: not an error of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "error: {}", described(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let env = environment();
    let openai_api_key = env.get("OPENAI_API_KEY").filter(|key| !key.is_empty()).cloned();
    match cli.command {
        Command::Serve(args) => {
            let files = files(&args.settings, args.flags(), env)?;
            let (settings, layered) = Settings::load_layered(&files.read()?)?;
            let runtime = runtime()?;
            let telemetry = {
                let _runtime = runtime.enter();
                settings.telemetry.as_ref().map(Telemetry::start).transpose()?
            };
            let log = logging::init(&settings.log, telemetry.as_ref());
            let manager = ServiceManager::of(&files.env);
            let watched = Watched { files, layered, log };
            let served = runtime.block_on(serve::run(&args, settings, watched, manager));
            // The last spans are sent from the runtime.
            if let Some(telemetry) = telemetry {
                telemetry.shutdown();
            }
            runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
            served
        }
        Command::Chat(args) => {
            let (mut settings, layered) = load(&args.settings, args.settings.flags(), env)?;
            if *layered.place("log.level") == Place::Default {
                // A server within the talk would talk into it.
                settings.log.filter = "error".into();
            }
            logging::init(&settings.log, None);
            block_on(runtime()?, chat::run(*args, settings, openai_api_key))
        }
        Command::Download(args) => {
            let (settings, _) = load(&args.settings, args.flags(), env)?;
            logging::init(&settings.log, None);
            block_on(runtime()?, download::run(&args, &settings))
        }
        Command::Models(args) => {
            let (settings, _) = load(&args, args.flags(), env)?;
            logging::init(&settings.log, None);
            list_models::run(&settings)
        }
        Command::Health(args) => {
            let (settings, _) = load(&args.settings, args.settings.flags(), env)?;
            logging::init(&settings.log, None);
            block_on(runtime()?, health::run(args.url.as_deref(), &settings.server))
        }
        Command::Config(ConfigCommand::Check(args)) => {
            let sources = files(&args, args.flags(), env)?.read()?;
            let settings = Settings::load(&sources)?;
            if let Some(template) = &settings.models.chat_template {
                template.read()?;
            }
            let file = sources.file.map_or("no settings file".into(), |file| file.path.display().to_string());
            writeln!(io::stdout(), "the settings are good ({file}, environment, defaults)")?;
            Ok(())
        }
        Command::Config(ConfigCommand::Show(args)) => {
            let (_, layered) = load(&args, args.flags(), env)?;
            io::stdout().write_all(show_settings::show(&layered).as_bytes())?;
            Ok(())
        }
        Command::Completions { shell } => {
            // Into memory first: the generator panics where its writer fails, and a pipe may be closed at any time.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "candlewick", &mut script);
            io::stdout().write_all(&script)?;
            Ok(())
        }
    }
}

/// The environment as it was at the start. What is not text cannot be a setting.
fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The places of this process's settings.
fn files(
    args: &SettingsArgs,
    flags: Vec<FlagValue>,
    env: BTreeMap<String, String>,
) -> anyhow::Result<SettingsFiles> {
    let working_dir = std::env::current_dir().context("cannot tell which folder this is")?;
    let named = args
        .config
        .clone()
        .or_else(|| env.get("CANDLEWICK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
    Ok(SettingsFiles { named, env, flags, working_dir })
}

fn load(
    args: &SettingsArgs,
    flags: Vec<FlagValue>,
    env: BTreeMap<String, String>,
) -> anyhow::Result<(Settings, Layered)> {
    Ok(Settings::load_layered(&files(args, flags, env)?.read()?)?)
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

fn block_on(runtime: Runtime, command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    result
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An error and its causes, without those that say again what was said.
fn described(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match (text.is_empty(), text.contains(&cause)) {
            (true, _) => cause,
            (false, true) => text,
            (false, false) => format!("{text}: {cause}"),
        }
    })
}
