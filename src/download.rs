//! `candlewick download`: brings everything here that serving a model needs, with a bar for each file. What an earlier
//! try has left is gone on with.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use candlewick_engine::{ModelFactory, ModelFile, ModelSource};
use candlewick_hub::{DownloadEvent, Downloaded, HubSource};
use candlewick_models::CandleFactory;
use candlewick_protocol::ModelRef;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::DownloadArgs;
use crate::settings::Settings;
use crate::{ember, sources};

/// Runs `candlewick download`.
pub async fn run(args: &DownloadArgs, settings: &Settings) -> anyhow::Result<()> {
    let model = model_of(args)?;
    if model.repo() == ember::MODEL {
        return say(&format!("{} is built in; there is nothing to download", ember::MODEL));
    }
    if model.is_path() {
        bail!("`{model}` is a folder on this machine; models to download are named like `org/name`");
    }
    let hub = sources::hub_settings(&settings.hub);
    if args.force_download && hub.offline {
        bail!("--force-download needs the network, and HF_HUB_OFFLINE (or hub.offline) forbids it");
    }
    let source = HubSource::new(hub)?;
    let _set_aside = match args.force_download {
        true => SetAside::cached_files(&source, &model).await?,
        false => SetAside::default(),
    };
    let downloaded = fetch(&source, &model).await.with_context(|| format!("cannot download `{model}`"))?;
    let commit = downloaded.commit.as_deref().map(|commit| format!(" (commit {commit})")).unwrap_or_default();
    let folder = downloaded.files.files.values().find_map(folder_of).unwrap_or_default();
    say(&format!("{model}{commit}: {} files in {}", downloaded.files.files.len(), folder.display()))
}

/// The model that is meant; `--revision` and `@revision` must not contradict each other.
fn model_of(args: &DownloadArgs) -> anyhow::Result<ModelRef> {
    let model: ModelRef = args.model.parse().with_context(|| format!("`{}` names no model", args.model))?;
    match &args.revision {
        Some(revision) if model.names_revision() && model.revision() != revision => {
            bail!("two revisions are named: `{}` and --revision {revision}", model.revision())
        }
        // Read again as part of a name, so that it is checked as one.
        Some(revision) => {
            let file = model.file().map(|file| format!(":{file}")).unwrap_or_default();
            let name = format!("{}@{revision}{file}", model.repo());
            name.parse().with_context(|| format!("--revision {revision}"))
        }
        None => Ok(model),
    }
}

async fn fetch(source: &HubSource, model: &ModelRef) -> anyhow::Result<Downloaded> {
    let bars = Bars::new();
    // It never computes, so one thread is enough.
    let factory = CandleFactory::new(Some(1))?;
    let check = |config: &Value| factory.check(config);
    Ok(candlewick_hub::download(source, model, &check, &|event| bars.show(&event)).await?)
}

fn folder_of(file: &ModelFile) -> Option<PathBuf> {
    match file {
        ModelFile::Path(path) => path.parent().map(Path::to_path_buf),
        ModelFile::Embedded(_) | ModelFile::Made(_) => None,
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}

/// A bar for each file; a line for each without a terminal.
struct Bars {
    all: MultiProgress,
    files: Mutex<BTreeMap<String, ProgressBar>>,
    is_terminal: bool,
}

impl Bars {
    fn new() -> Self {
        Self { all: MultiProgress::new(), files: Mutex::default(), is_terminal: io::stderr().is_terminal() }
    }

    fn show(&self, event: &DownloadEvent<'_>) {
        // A bar whose drawing panicked is drawn on; nothing depends on it.
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            DownloadEvent::Started { name, size } => {
                let bar = self.all.add(size.map_or_else(ProgressBar::no_length, ProgressBar::new));
                bar.set_style(style(size.is_some()));
                bar.set_prefix(name.to_owned());
                files.insert(name.into(), bar);
            }
            DownloadEvent::Bytes { name, done, size } => {
                let Some(bar) = files.get(name) else { return };
                if bar.position() == 0 && done > 0 {
                    // What was here before is no part of the rate.
                    bar.reset_eta();
                }
                if let Some(size) = size.filter(|size| bar.length() != Some(*size)) {
                    bar.set_length(size);
                    bar.set_style(style(true));
                }
                bar.set_position(done);
            }
            DownloadEvent::Finished { name } => {
                if let Some(bar) = files.get(name) {
                    bar.finish();
                }
                if !self.is_terminal {
                    // Progress is a courtesy; a closed pipe is no reason to stop.
                    let _ = writeln!(io::stderr(), "{name}: done");
                }
            }
        }
    }
}

fn style(has_size: bool) -> ProgressStyle {
    ProgressStyle::with_template(match has_size {
        true => "{prefix:32!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        false => "{prefix:32!} {spinner} {bytes} {bytes_per_sec}",
    })
    .expect("the template is well formed")
}

/// Files that a forced download replaces: renamed until the new ones are here, so that a failure costs nothing.
#[derive(Default)]
struct SetAside {
    renamed: Vec<(PathBuf, PathBuf)>,
}

impl SetAside {
    /// Moves away the content of every file of the model that is cached.
    async fn cached_files(source: &HubSource, model: &ModelRef) -> anyhow::Result<Self> {
        let snapshot = source.resolve(model).await?;
        let mut aside = Self::default();
        let cached = snapshot.files().iter().filter(|file| file.cached);
        for file in cached.filter(|file| model.file().is_none_or(|name| name == file.name)) {
            let ModelFile::Path(link) = snapshot.fetch(&file.name, &|_, _| {}).await? else { continue };
            let content =
                std::fs::canonicalize(&link).with_context(|| format!("cannot find {}", link.display()))?;
            let mut away = content.clone().into_os_string();
            away.push(".replaced");
            let away = PathBuf::from(away);
            std::fs::rename(&content, &away).with_context(|| format!("cannot move {}", content.display()))?;
            aside.renamed.push((content, away));
        }
        Ok(aside)
    }
}

/// An old file goes if the new one is here, and back to its place if not: after a success and a failure alike.
impl Drop for SetAside {
    fn drop(&mut self) {
        for (content, away) in self.renamed.drain(..) {
            let cleared =
                if content.exists() { std::fs::remove_file(&away) } else { std::fs::rename(&away, &content) };
            if let Err(error) = cleared {
                tracing::warn!(file = %away.display(), %error, "an old file is left over");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(model: &str, revision: Option<&str>) -> anyhow::Result<String> {
        let args = DownloadArgs {
            model: model.into(),
            revision: revision.map(Into::into),
            ..DownloadArgs::default()
        };
        model_of(&args).map(|model| model.canonical())
    }

    #[test]
    fn a_revision_may_be_named_either_way() {
        assert_eq!(model("org/m", None).expect("good"), "org/m@main");
        assert_eq!(model("org/m", Some("v1")).expect("good"), "org/m@v1");
        assert_eq!(model("org/m:q.gguf", Some("v1")).expect("good"), "org/m@v1:q.gguf");
        assert_eq!(model("org/m@v1", Some("v1")).expect("good"), "org/m@v1");
        assert!(model("org/m@v2", Some("v1")).is_err());
        assert!(model("org/m", Some("../x")).is_err());
        assert!(model("", None).is_err());
    }
}
