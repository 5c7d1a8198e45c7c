//! `candlewick chat`: a conversation in the terminal. With a server that is named or that answers on this machine, or,
//! without any, with one that is started for this talk and ends with it.
//!
//! The conversation is held here and sent whole with each turn; the server keeps nothing.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Map, Value, json};

use crate::chat_client::{ChatClient, ClientError, ServedModel};
use crate::chat_input::{Input, Line};
use crate::chat_render::{LoadView, Screen};
use crate::chat_words::{ChatCommand, ChatWords, HELP, doubts};
use crate::cli::ChatArgs;
use crate::ember;
use crate::settings::Settings;
use crate::{Server, start};

/// Runs `candlewick chat` until the person leaves.
pub async fn run(args: ChatArgs, settings: Settings, openai_api_key: Option<String>) -> anyhow::Result<()> {
    let words = ChatWords::parse(&args.words).map_err(anyhow::Error::msg)?;
    let screen = Screen::new();
    let api_key = args.api_key.clone().or(openai_api_key);
    let (client, own_server) = connect(&words, &settings, api_key, &screen).await?;
    let result = async {
        let model = choose_model(words.model, &client, own_server.is_some()).await?;
        load(&client, &model).await?;
        Session::new(client, model, words.fields, &args, screen).talk().await
    }
    .await;
    if let Some(server) = own_server {
        // Nobody else talks to it, so there is nothing to wait for.
        server.stop(std::time::Duration::ZERO).await;
    }
    result
}

/// The server that is named; else the one on this machine; else one of our own.
async fn connect(
    words: &ChatWords,
    settings: &Settings,
    api_key: Option<String>,
    screen: &Screen,
) -> anyhow::Result<(ChatClient, Option<Server>)> {
    if let Some(url) = &words.url {
        let client = ChatClient::new(url, api_key)?;
        client.check_health().await?;
        return Ok((client, None));
    }
    let local = ChatClient::new(format!("http://localhost:{}", settings.server.port), api_key.clone())?;
    if settings.server.port != 0 && local.check_health().await.is_ok() {
        screen.remark(&format!("talking to the server at {}", local.url()));
        return Ok((local, None));
    }
    let mut own = settings.clone();
    own.server.host = "127.0.0.1".into();
    own.server.port = 0;
    own.server.api_keys.clear();
    own.server.api_key_file = None;
    own.models.pinned = None;
    // Nothing is asked of it later.
    own.store = None;
    let server = start(own).await.context("no server answers here, and none could be started")?;
    screen.remark(
        "no server is running here; started one for this talk (`candlewick serve` keeps one running)",
    );
    Ok((ChatClient::new(format!("http://{}", server.addr()), None)?, Some(server)))
}

/// The model that is named; else the only sensible one that the server has.
async fn choose_model(named: Option<String>, client: &ChatClient, is_own: bool) -> anyhow::Result<String> {
    if let Some(model) = named {
        return Ok(model);
    }
    if is_own {
        return Ok(ember::MODEL.into());
    }
    sensible_model(&client.models().await?, client.url())
}

/// The only model there is, the only one in memory, or the one that comes with the program, in this order.
fn sensible_model(models: &[ServedModel], url: &str) -> anyhow::Result<String> {
    let only = |models: &[&ServedModel]| (models.len() == 1).then(|| models[0].id.clone());
    let all: Vec<&ServedModel> = models.iter().collect();
    let present: Vec<&ServedModel> = models.iter().filter(|model| model.is_present()).collect();
    let ember = || models.iter().any(|model| model.id == ember::MODEL).then(|| ember::MODEL.to_owned());
    only(&all).or_else(|| only(&present)).or_else(ember).ok_or_else(|| {
        let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
        match ids.as_slice() {
            [] => anyhow!("the server at {url} lists no model; name one: `candlewick chat MODEL`"),
            ids => anyhow!("the server at {url} has {} models; name one of: {}", ids.len(), ids.join(", ")),
        }
    })
}

async fn load(client: &ChatClient, model: &str) -> anyhow::Result<()> {
    let mut view = LoadView::new();
    client
        .load_model(model, |frame| view.show(frame))
        .await
        .with_context(|| format!("cannot load `{model}`"))?;
    Ok(())
}

/// One conversation.
struct Session {
    client: ChatClient,
    model: String,
    fields: Map<String, Value>,
    system_prompt: Option<String>,
    messages: Vec<Value>,
    save_folder: PathBuf,
    user: String,
    screen: Screen,
}

impl Session {
    fn new(
        client: ChatClient,
        model: String,
        fields: Map<String, Value>,
        args: &ChatArgs,
        screen: Screen,
    ) -> Self {
        let mut session = Self {
            client,
            model,
            fields,
            system_prompt: args.system_prompt.clone(),
            messages: Vec::new(),
            save_folder: args.save_folder.clone(),
            user: args.user.clone().unwrap_or_else(|| "you".into()),
            screen,
        };
        session.clear();
        session
    }

    /// Begins anew, with the system prompt alone.
    fn clear(&mut self) {
        let system = self.system_prompt.iter().map(|text| json!({"role": "system", "content": text}));
        self.messages = system.collect();
    }

    async fn talk(mut self) -> anyhow::Result<()> {
        if io::stdin().is_terminal() {
            self.screen.remark(&format!("{} · !help for commands, Ctrl-D to leave", self.model));
        }
        self.doubt(&self.fields);
        let mut input = Input::open(self.screen.prompt(&self.user));
        loop {
            let line = match input.next().await? {
                Line::Text(line) => line,
                Line::Interrupted => {
                    self.screen.remark("Ctrl-C again, or Ctrl-D, to leave");
                    continue;
                }
                Line::End => return Ok(()),
            };
            match ChatCommand::parse(&line) {
                Some(ChatCommand::Exit) => return Ok(()),
                Some(command) => self.obey(command)?,
                None if line.trim().is_empty() => {}
                None => self.answer(line, &input).await?,
            }
        }
    }

    fn obey(&mut self, command: ChatCommand) -> io::Result<()> {
        match command {
            ChatCommand::Help => self.screen.say(HELP),
            ChatCommand::Clear => {
                self.clear();
                self.screen.remark("the conversation is forgotten");
                Ok(())
            }
            ChatCommand::Save(file) => {
                match self.save(file.as_deref()) {
                    Ok(path) => self.screen.remark(&format!("saved to {}", path.display())),
                    Err(error) => self.screen.remark(&format!("not saved: {error:#}")),
                }
                Ok(())
            }
            ChatCommand::Set(fields) => {
                self.doubt(&fields);
                for (key, value) in fields {
                    match value {
                        Value::Null => drop(self.fields.shift_remove(&key)),
                        value => drop(self.fields.insert(key, value)),
                    }
                }
                self.screen.say(&self.fields_text())
            }
            ChatCommand::Status => self.screen.say(&format!(
                "model {}\nserver {}\nfields {}\nmessages {}",
                self.model,
                self.client.url(),
                self.fields_text(),
                self.messages.len()
            )),
            ChatCommand::Unknown(why) => {
                self.screen.remark(&why);
                Ok(())
            }
            ChatCommand::Exit => Ok(()),
        }
    }

    fn doubt(&self, fields: &Map<String, Value>) {
        doubts(fields).iter().for_each(|line| self.screen.remark(line));
    }

    fn fields_text(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if fields.is_empty() { "as the server has them".into() } else { fields.join(" ") }
    }

    /// One turn. An error is told, and the turn taken back: the talk goes on, unless nobody is there to go on with it.
    async fn answer(&mut self, line: String, input: &Input) -> anyhow::Result<()> {
        self.messages.push(json!({"role": "user", "content": line}));
        let mut view = self.screen.begin_answer(&self.model)?;
        let request = self.request();
        let said = tokio::select! {
            said = ask(&self.client, &request, &mut view) => said,
            _ = tokio::signal::ctrl_c() => {
                view.finish_reason = Some("interrupted".into());
                Ok(())
            }
        };
        view.finish(&self.screen)?;
        match said {
            Ok(()) if view.text.is_empty() && view.finish_reason.as_deref() == Some("interrupted") => {
                self.messages.pop();
            }
            Ok(()) => self.messages.push(json!({"role": "assistant", "content": view.text})),
            Err(error) => {
                self.messages.pop();
                if !input.is_terminal() {
                    return Err(error);
                }
                self.screen.remark(&format!("{error:#}"));
            }
        }
        Ok(())
    }

    fn request(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("model".into(), self.model.as_str().into());
        body.insert("messages".into(), self.messages.clone().into());
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
        body.extend(self.fields.clone());
        body
    }

    fn save(&self, file: Option<&str>) -> anyhow::Result<PathBuf> {
        let path = match file {
            Some(file) => PathBuf::from(file),
            None => {
                let now = seconds_since_1970();
                let folder = self.save_folder.join(self.model.replace(['/', ':', '@'], "_"));
                folder.join(format!("chat_{now}.json"))
            }
        };
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let saved = json!({
            "settings": {"model": self.model, "server": self.client.url(), "fields": self.fields},
            "chat_history": self.messages,
        });
        let text = serde_json::to_string_pretty(&saved).expect("plain data can be written");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A name for a file: seconds since 1970 sort as files should.
fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn ask(
    client: &ChatClient,
    request: &Map<String, Value>,
    view: &mut crate::chat_render::AnswerView,
) -> anyhow::Result<()> {
    let mut answer = client.chat(request).await?;
    while let Some(piece) = answer.next().await? {
        view.show(&piece)?;
    }
    if view.finish_reason.is_none() {
        return Err(ClientError::Broken("the server closed the stream before its end".into()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(models: &[(&str, &str)]) -> anyhow::Result<String> {
        let model =
            |(id, status): &(&str, &str)| ServedModel { id: (*id).into(), status: Some((*status).into()) };
        sensible_model(&models.iter().map(model).collect::<Vec<_>>(), "http://here")
    }

    #[test]
    fn without_a_name_the_sensible_model_is_taken() {
        assert_eq!(choose(&[("a/b", "available")]).expect("the only one"), "a/b");
        let loaded = [("a/b", "available"), ("c/d", "loading"), (ember::MODEL, "available")];
        assert_eq!(choose(&loaded).expect("the one in memory"), "c/d");
        assert_eq!(
            choose(&[("a/b", "available"), (ember::MODEL, "available")]).expect("built in"),
            ember::MODEL
        );
        assert!(
            choose(&[("a/b", "available"), ("c/d", "failed")])
                .expect_err("two")
                .to_string()
                .contains("a/b, c/d")
        );
        assert!(choose(&[]).is_err());
    }
}
