//! What the program takes of memory, from outside: at the height of a load, after an unload, and under a limit that a model does
//! not fit in. Linux: it reads `/proc`.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Map, Value, json};

use crate::support::{eventually, http, program};

const HIDDEN: usize = 1024;
const INNER: usize = 4096;
const LAYERS: usize = 4;
const VOCABULARY: usize = 1280;

/// What the program's own pages and its allocator may add, whatever the model.
const SLACK_BYTES: u64 = 40 << 20;

/// Writes a model of some 137 MB that knows ember's words and whose weights are all zero: a file without blocks on the disk,
/// whose pages count as any other's once they are read. Answers the bytes of its weights.
fn write_model(folder: &Path) -> u64 {
    let ember = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/ember");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(ember.join(name), folder.join(name)).expect("ember is in the repository");
    }
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY,
        "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 256, "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()))
        };
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
        for name in ["q_proj", "k_proj", "v_proj"] {
            add(&format!("self_attn.{name}.weight"), &[HIDDEN, HIDDEN]);
            add(&format!("self_attn.{name}.bias"), &[HIDDEN]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INNER, HIDDEN]);
        add("mlp.up_proj.weight", &[INNER, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
    }
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * 2;
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.join("model.safetensors")).expect("made");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + end) as u64).expect("lengthened");
    end as u64
}

/// The program, as a process of its own.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn serve(flags: &[&str]) -> Self {
        let flags = [&["--no-store"], flags].concat();
        let (child, address) = program::serve(&flags).expect("it serves");
        Self { child, address }
    }

    fn post(&self, path: &str, body: &Value) -> http::Answer {
        http::post(self.address, path, body)
    }

    /// A line of its `/proc/…/status`, in bytes.
    fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
        let kib: u64 = line.trim_end_matches("kB").trim().parse().expect("a number");
        kib << 10
    }

    fn answers(&self) -> bool {
        let body = json!({"model": "candlewick/ember", "prompt": "Hello", "max_tokens": 1});
        self.post("/v1/completions", &body).status == 200
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_load_holds_a_model_once_and_an_unload_gives_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let weight_bytes = write_model(folder.path());
    let program = Program::serve(&[]);
    assert!(program.answers());
    let before = program.status("VmRSS:");
    let model = json!({"model": folder.path()});
    for round in 0..2 {
        let loaded = program.post("/v1/models/load", &model);
        let (status, text) = (loaded.status, loaded.text());
        assert_eq!(status, 200, "{text}");
        let height = program.status("VmHWM:") - before;
        assert!(
            height <= weight_bytes * 115 / 100 + SLACK_BYTES,
            "round {round}: a model of {weight_bytes} bytes took {height} at its height"
        );
        assert!(program.status("VmRSS:") - before >= weight_bytes, "round {round}: it is in memory");
        assert_eq!(program.post("/v1/models/unload", &model).status, 200);
        eventually("the memory is given back", || program.status("VmRSS:") <= before + SLACK_BYTES);
    }
}

#[test]
fn a_model_beyond_the_limit_is_refused_and_the_server_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path());
    let program = Program::serve(&["--memory-limit", "160MiB"]);
    let refused = program.post("/v1/models/load", &json!({"model": folder.path()}));
    let (status, text) = (refused.status, refused.text());
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("--memory-limit has") && text.contains("137 MB of them for its weights"), "{text}");
    assert!(program.answers(), "another model fits");
    assert!(program.status("VmHWM:") < 160 << 20, "it was refused before it was loaded");
}

#[test]
fn a_process_at_a_limit_of_the_system_refuses_and_is_not_ended() {
    let mut program = Program::serve(&["--kv-cache-memory", "64MiB"]);
    assert!(program.answers());
    let limit = |limit: &str| {
        let id = program.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &id, &format!("--data={limit}:")]).status();
        assert!(limited.expect("util-linux is there").success());
    };
    // So that 96 % are in use from this moment on.
    limit(&(program.status("VmData:") / 96 * 100).to_string());
    let body = json!({"model": "candlewick/ember", "prompt": "Hello", "max_tokens": 32});
    let ask = || {
        let answer = program.post("/v1/completions", &body);
        let (status, retry_after) = (answer.status, answer.header("retry-after").map(str::to_owned));
        assert!(status == 200 || (status == 503 && retry_after.is_some()), "{status}: {}", answer.text());
        status
    };
    eventually("it refuses", || ask() == 503);
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..32).map(|_| scope.spawn(ask)).collect();
        assert_eq!(http::get(program.address, "/health").status, 200);
        crowd.into_iter().for_each(|one| _ = one.join().expect("it is answered"));
    });
    let steps = http::get(program.address, "/metrics").text();
    for step in ["drop_prefixes", "no_long_prompts", "unload_idle", "refuse"] {
        let never = format!("candlewick_memory_pressure_steps_total{{step=\"{step}\"}} 0\n");
        assert!(!steps.contains(&never), "{step} was not taken");
    }
    limit("unlimited");
    eventually("it answers again", || ask() == 200);
    assert!(program.child.try_wait().expect("it can be asked").is_none(), "it is the same process");
}
