//! What people who configure Candlewick rely on: the shipped file tells the truth, stronger layers win, and a mistake is
//! refused where it was made, with a hint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_engine::Quantization;
use config::ValueKind;

use crate::settings::{ChatTemplate, FlagValue, KvCacheSize, Settings, SettingsFile, Sources};
use crate::settings_layers::{Layered, Place, SHORT_NAMES, known_keys};
use crate::settings_raw::RawSettings;

const SHIPPED: &str = include_str!("../config/candlewick.toml");

fn sources(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file: (!file.is_empty())
            .then(|| SettingsFile { path: "/etc/candlewick.toml".into(), text: file.into() }),
        env: env.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect(),
        flags: flags.iter().map(|(name, value)| FlagValue::new(name, *value)).collect(),
        working_dir: "/work-dir".into(),
    }
}

fn load(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Settings {
    Settings::load(&sources(file, env, flags)).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)], parts: &[&str]) {
    let error = Settings::load(&sources(file, env, flags)).expect_err("the settings are wrong").to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
}

/// The shipped file with every setting switched on, and those settings' keys.
fn uncommented() -> (String, Vec<String>) {
    let mut text = String::new();
    let (mut section, mut keys) = (String::new(), Vec::new());
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').into();
        }
        let is_setting =
            |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ");
        let line = match line.strip_prefix('#').filter(is_setting) {
            Some(setting) => {
                let (key, _) = setting.split_once(" = ").expect("it was found just now");
                keys.push(format!("{section}.{key}"));
                setting
            }
            None => line,
        };
        text.push_str(line);
        text.push('\n');
    }
    keys.sort();
    (text, keys)
}

#[test]
fn the_shipped_file_changes_nothing() {
    let layered = Layered::read(&sources(SHIPPED, &[], &[])).expect("the shipped file is good");
    assert_eq!(layered.raw, RawSettings::default());
    assert!(
        known_keys().iter().all(|key| *layered.place(key) == Place::Default),
        "every setting is commented"
    );
}

#[test]
fn the_shipped_file_holds_every_setting_at_its_default() {
    let (text, keys) = uncommented();
    assert_eq!(keys, known_keys(), "each setting stands in the file once");
    let layered = Layered::read(&sources(&text, &[], &[])).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(layered.raw, RawSettings::default());
    assert!(known_keys().iter().all(|key| matches!(layered.place(key), Place::File(..))));
}

#[test]
fn later_layers_are_stronger() {
    let file = "[server]\nport = 1\nhost = \"a\"\n[engine]\nmax_running = 3\n";
    let settings = load(
        file,
        &[("CANDLEWICK_SERVER__PORT", "2"), ("CANDLEWICK_ENGINE__MAX_QUEUED", "9")],
        &[("port", "3")],
    );
    assert_eq!((settings.server.port, settings.server.host.as_str()), (3, "a"));
    assert_eq!((settings.engine.max_running, settings.engine.max_queued), (3, 9));
    assert_eq!(
        load(file, &[("CANDLEWICK_PORT", "2")], &[]).server.port,
        2,
        "short names are for the same keys"
    );
    let both = [("CANDLEWICK_PORT", "2"), ("CANDLEWICK_SERVER__PORT", "4")];
    assert_eq!(load(file, &both, &[]).server.port, 4, "the exact name beats the short one");
}

#[test]
fn values_read_alike_from_every_layer() {
    let file = "[server]\napi_keys = [\"a\", \"b\"]\n[models]\nmodel_timeout = 60\nchat_template_kwargs = { Depth = 2 }\n\
                [engine]\nkv_cache_memory = \"2GiB\"\nthreads = 3\n[hub]\noffline = true\n";
    let env = [
        ("CANDLEWICK_API_KEY", "a, b"),
        ("CANDLEWICK_MODEL_TIMEOUT", "1m"),
        ("CANDLEWICK_CHAT_TEMPLATE_KWARGS", r#"{"Depth": 2}"#),
        ("CANDLEWICK_KV_CACHE_MEMORY", "2147483648"),
        ("CANDLEWICK_THREADS", "3"),
        ("CANDLEWICK_HUB__OFFLINE", "true"),
    ];
    let (from_file, mut from_env) = (load(file, &[], &[]), load("", &env, &[]));
    from_env.hub.env = BTreeMap::new();
    assert_eq!(from_file, from_env);
    assert_eq!(from_file.server.api_keys, ["a", "b"]);
    assert_eq!(from_file.models.model_timeout, Some(Duration::from_secs(60)));
    assert_eq!(from_file.models.template_kwargs["Depth"], 2, "the case of a variable is kept");
    assert_eq!(from_file.engine.kv_cache, KvCacheSize::Bytes(2 << 30));
    assert_eq!(from_file.hub.offline, Some(true));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_and_the_place() {
    refused(
        "[server]\n\nprot = 1\n",
        &[],
        &[],
        &["/etc/candlewick.toml:3", "`server.prot`", "`server.port`"],
    );
    refused("port = 1\n", &[], &[], &["/etc/candlewick.toml:1", "`server.port`"]);
    refused("[engine]\nport = 1\n", &[], &[], &["`server.port`"]);
    refused("server = 1\n", &[], &[], &["is a section", "[server]"]);
    refused("[modles]\nx = 1\n", &[], &[], &["candlewick.toml:2", "`[modles]`", "did you mean `[models]`?"]);
    refused("[hub]\n[sever]\n", &[], &[], &["candlewick.toml:2", "did you mean `[server]`?"]);
    refused("[qqq]\nx = 1\n", &[], &[], &["`[qqq]`", "engine, hub, log, models, server"]);
    refused("", &[("CANDLEWICK_SERVER__PROT", "1")], &[], &["CANDLEWICK_SERVER__PROT", "`server.port`"]);
    refused(
        "",
        &[("CANDLEWICK_MAX_RUNING", "1")],
        &[],
        &["CANDLEWICK_MAX_RUNING", "did you mean CANDLEWICK_MAX_RUNNING?"],
    );
    refused("", &[("CANDLEWICK_ZZ", "1")], &[], &["CANDLEWICK_SECTION__KEY"]);
}

#[test]
fn wrong_values_are_refused_with_the_place() {
    refused(
        "[server]\nport = \"high\"\n",
        &[],
        &[],
        &["/etc/candlewick.toml:2", "`server.port`", "\"high\""],
    );
    refused("[server]\nport = 70000\n", &[], &[], &["`70000` is not a whole number from 0 to 65535"]);
    refused("", &[("CANDLEWICK_PORT", "-1")], &[], &["-1", "a whole number of at least 0"]);
    refused(
        "",
        &[],
        &[("kv-cache-memory", "lots")],
        &["`lots` is neither `auto` nor a size, such as `512MiB`"],
    );
    refused(
        "",
        &[],
        &[("default-seed", "-1")],
        &["flag --default-seed", "`-1`", "a whole number of at least 0"],
    );
    refused("", &[], &[("model", "")], &["argument MODEL", "the name is empty"]);
    refused("[models]\ndevice = \"cuda\"\n", &[], &[], &["this build has no `cuda` device", "cpu"]);
    refused("", &[], &[("dtype", "int3")], &["flag --dtype", "`int3`", "`bfloat16`"]);
    refused("", &[], &[("model", "org/m@")], &["argument MODEL", "org/m@"]);
    refused(
        "",
        &[("CANDLEWICK_MAX_RUNNING", "0")],
        &[],
        &["environment variable CANDLEWICK_MAX_RUNNING", "least"],
    );
    refused("", &[], &[("cb-max-memory-percent", "30")], &["0.3 is 30 percent"]);
    refused("", &[], &[("cb-num-blocks", "8"), ("kv-cache-memory", "1GiB")], &["not both"]);
    refused("", &[], &[("chat-template-kwargs", "[1]")], &["JSON object"]);
    refused("", &[], &[("log-level", "loud")], &["`loud`", "`warning`"]);
    refused("[server\n", &[], &[], &["/etc/candlewick.toml:1", "not valid TOML"]);
}

#[test]
fn other_tools_names_of_quantisations_mean_the_nearest_of_ours_and_are_explained() {
    let set = |name: &str| load("", &[], &[("quantization", name)]).models.quantization;
    let scheme = |name: &str| set(name).scheme();
    assert_eq!(scheme("none"), None);
    assert_eq!((scheme("bnb-8bit"), scheme("q8_0")), (Some(Quantization::Q8_0), Some(Quantization::Q8_0)));
    assert_eq!((scheme("bnb-4bit"), scheme("Q4_K")), (Some(Quantization::Q4_1), Some(Quantization::Q4_1)));
    assert_eq!((scheme("int8"), scheme("q4_0")), (Some(Quantization::Int8), Some(Quantization::Q4_0)));
    let line = set("bnb-4bit").explain().expect("it goes by another name");
    assert!(line.contains("`bnb-4bit` is made here as q4_1"), "{line}");
    assert_eq!(set("q8_0").explain(), None);
    refused("", &[], &[("quantization", "gptq")], &["flag --quantization", "`gptq`", "`q8_0`"]);
}

#[test]
fn a_password_in_an_address_is_refused_without_being_shown() {
    for (file, env) in [
        ("[hub]\nendpoint = \"https://me:hunter2@hub.example/\"\n", vec![]),
        ("", vec![("HF_ENDPOINT", "https://hunter2@hub.example")]),
        ("[telemetry]\notlp_endpoint = \"http://me:hunter2@collector:4317\"\n", vec![]),
        ("", vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@collector:4317?a=b")]),
    ] {
        refused(file, &env, &[], &["there is a user or a password in the address"]);
        let sources = sources(file, &env, &[]);
        let error = Settings::load(&sources).expect_err("it is refused").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    refused("[server]\nheader_timeout = \"10ms\"\n", &[], &[], &["10ms is too short; 1s is the least"]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    refused(
        "[server]\nprot = 1\n[engine]\nthreds = 2\n",
        &[("CANDLEWICK_X", "1")],
        &[],
        &["prot", "threds", "CANDLEWICK_X"],
    );
    refused(
        "[server]\nhost = \"\"\n[engine]\nblock_size = 0\n",
        &[],
        &[],
        &["candlewick.toml:2", "candlewick.toml:4"],
    );
    let error = Settings::load(&sources(
        "[server]\nhost = \"\"\nport = 99999\nprot = 1\n",
        &[("CANDLEWICK_MAX_RUNNING", "0")],
        &[("dtype", "int3")],
    ))
    .expect_err("much is wrong");
    let places: Vec<String> = error.0.iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(
        places,
        [
            "/etc/candlewick.toml:2",
            "/etc/candlewick.toml:3",
            "/etc/candlewick.toml:4",
            "environment variable CANDLEWICK_MAX_RUNNING",
            "flag --dtype",
        ],
        "{error}"
    );
    refused("[server\n", &[("CANDLEWICK_MAX_RUNNING", "0")], &[], &["not valid TOML", "MAX_RUNNING"]);
}

#[test]
fn an_empty_key_does_not_open_the_server_in_silence() {
    let empty = ["a key is empty"];
    refused("", &[], &[("api-key", "")], &["flag --api-key", empty[0]]);
    refused("", &[("CANDLEWICK_API_KEY", "")], &[], &["CANDLEWICK_API_KEY", empty[0]]);
    refused("", &[("CANDLEWICK_SERVER__API_KEYS", "a,")], &[], &empty);
    refused("[server]\napi_keys = [\"a\", \" \"]\n", &[], &[], &["candlewick.toml:2", empty[0]]);
    let weight = "`weight=0` is no weight; it is a whole number from 1";
    refused("[server]\napi_keys = [\"a\", \"b sk-1 weight=0\"]\n", &[], &[], &["candlewick.toml:2", weight]);
    assert!(load("[server]\napi_keys = []\n", &[], &[]).server.api_keys.is_empty(), "none is none");
}

#[test]
fn an_empty_variable_is_not_set() {
    let settings =
        load("[server]\nport = 7\n", &[("CANDLEWICK_PORT", ""), ("CANDLEWICK_LOG__LEVEL", " ")], &[]);
    assert_eq!((settings.server.port, settings.log.filter.as_str()), (7, "info"));
}

#[test]
fn a_template_that_cannot_be_parsed_is_refused_where_it_was_set() {
    refused(
        "",
        &[],
        &[("chat-template", "{{ bos_token }}\n{% for %}")],
        &["flag --chat-template", "line 2", "syntax error"],
    );
}

#[test]
fn a_cluster_s_own_variables_are_no_mistakes_of_ours() {
    let env = [
        ("CANDLEWICK_PORT", "tcp://10.0.0.1:8000"),
        ("CANDLEWICK_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("CANDLEWICK_SERVICE_HOST", "10.0.0.1"),
    ];
    assert_eq!(load("", &env, &[]).server.port, 8000);
}

#[test]
fn paths_are_absolute_and_templates_may_be_inline() {
    let template =
        |text: &str| load("", &[("HOME", "/home/ann")], &[("chat-template", text)]).models.chat_template;
    assert_eq!(template("t.jinja"), Some(ChatTemplate::File("/work-dir/t.jinja".into())));
    assert_eq!(template("~/t.jinja"), Some(ChatTemplate::File("/home/ann/t.jinja".into())));
    assert_eq!(template("{{ messages }}"), Some(ChatTemplate::Inline("{{ messages }}".into())));
    let hub = load("[hub]\ncache_dir = \"cache\"\n", &[], &[]).hub;
    assert_eq!(hub.cache_dir.as_deref(), Some(Path::new("/work-dir/cache")));
}

#[test]
fn reasoning_is_a_template_variable_that_a_named_one_beats() {
    let thinking = |flags| load("", &[], flags).models.template_kwargs.get("enable_thinking").cloned();
    assert_eq!(thinking(&[("reasoning", "auto")]), None);
    assert_eq!(thinking(&[("reasoning", "off")]), Some(false.into()));
    let both = [("reasoning", "on"), ("chat-template-kwargs", r#"{"enable_thinking": false}"#)];
    assert_eq!(thinking(&both), Some(false.into()));
}

#[test]
fn every_short_name_is_for_a_key_that_exists() {
    let keys = known_keys();
    for (name, key) in SHORT_NAMES {
        assert!(keys.iter().any(|known| known == key), "{name} is for {key}");
    }
    let flag = FlagValue::new("enable-cors", ValueKind::Boolean(true));
    assert!(
        Settings::load(&Sources { flags: vec![flag], ..Sources::default() })
            .expect("good")
            .server
            .enable_cors
    );
}

#[test]
fn files_are_looked_for_here_and_in_the_users_folder() {
    let files = |env: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
        crate::settings_layers::default_files(Path::new("/here"), &env)
    };
    let here = PathBuf::from("/here/config/candlewick.toml");
    assert_eq!(files(&[]), std::slice::from_ref(&here));
    assert_eq!(files(&[("HOME", "/h")]), [here.clone(), "/h/.config/candlewick/candlewick.toml".into()]);
    assert_eq!(
        files(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]),
        [here, "/x/candlewick/candlewick.toml".into()]
    );
}

#[test]
fn responses_are_kept_in_the_users_data_folder_unless_another_is_chosen() {
    let kept = |env: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let store = load("", env, flags).store?;
        Some((store.data_dir.to_str().expect("text").to_owned(), store.is_chosen))
    };
    let home = [("HOME", "/home/u")];
    let found = |path: &str, is_chosen| Some((path.to_owned(), is_chosen));
    assert_eq!(kept(&home, &[]), found("/home/u/.local/share/candlewick", false));
    assert_eq!(
        kept(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")], &[]),
        found("/data/candlewick", false)
    );
    assert_eq!(
        kept(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "data")], &[]),
        found("/home/u/.local/share/candlewick", false)
    );
    assert_eq!(kept(&home, &[("data-dir", "~/kept")]), found("/home/u/kept", true));
    assert_eq!(kept(&[("CANDLEWICK_DATA_DIR", "kept")], &[]), found("/work-dir/kept", true));
    assert_eq!(kept(&[], &[]), None, "there is no place for it");
    let off = load("[store]\nenabled = false\nresponse_ttl = \"never\"\n", &home, &[]);
    assert_eq!(off.store, None);
    let ttl = load("", &home, &[]).store.expect("it is kept").response_ttl;
    assert_eq!(ttl, Some(Duration::from_secs(30 * 86400)));
}

#[test]
fn a_draft_model_is_for_a_model() {
    let one = load("", &[], &[("model", "org/large"), ("draft-model", "org/small")]);
    let names = |settings: &Settings| {
        settings.engine.drafts.iter().map(|(name, draft)| format!("{name} {draft}")).collect::<Vec<_>>()
    };
    assert_eq!(names(&one), ["org/large@main org/small"]);
    let several = load("[speculation]\ndraft_models = { \"a/b\" = \"c/d\", \"./e\" = \"./f\" }", &[], &[]);
    assert_eq!(several.engine.drafts.len(), 2);
    assert_eq!(several.engine.drafts["a/b@main"].repo(), "c/d");
    refused("", &[], &[("draft-model", "org/small")], &["--draft-model", "draft_models"]);
    refused("[speculation]\ndraft_models = { \"a/b\" = 3 }", &[], &[], &["draft_models", "`a/b`"]);
}
