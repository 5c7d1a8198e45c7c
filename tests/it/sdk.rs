//! The clients that people have, driving the binary that people run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The built binary, serving ember on a free port.
struct Binary {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Binary {
    fn serve() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
            .args(["serve", "--port", "0", "--log-level", "warning"])
            .envs([("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "/nonexistent")])
            .env("XDG_DATA_HOME", data.path())
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        let url = stdout.lines().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            Some(format!("http://{}", rest.split_whitespace().next()?))
        });
        Self { child, url: url.expect("it says where it listens"), _data: data }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the clients are installed; `scripts/sdk/setup` brings them on the first run.
fn clients() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk");
        let setup = Command::new(root.join("scripts/sdk/setup")).arg(&folder).status();
        assert!(
            setup.is_ok_and(|status| status.success()),
            "scripts/sdk/setup failed: it needs python3 (with venv) and npm"
        );
        folder
    })
}

fn drive(program: &Path, script: &str) {
    let server = Binary::serve();
    let mut script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sdk").join(script);
    if script.extension().is_some_and(|extension| extension == "mjs") {
        // A module finds its packages only beside itself, whatever NODE_PATH says.
        let beside = clients().join("node").join(script.file_name().expect("a script has a name"));
        std::fs::copy(&script, &beside).expect("the clients' folder can be written");
        script = beside;
    }
    let output = Command::new(program)
        .arg(&script)
        .arg(&server.url)
        .env("NODE_PATH", clients().join("node/node_modules"))
        .env_remove("HF_ENDPOINT")
        .output()
        .expect("the client starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end().ends_with("ok"),
        "{}:\n{said}\n{}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn python_openai() {
    drive(&clients().join("python/bin/python"), "openai_sync.py");
}

#[test]
fn python_openai_embeddings() {
    drive(&clients().join("python/bin/python"), "openai_embeddings.py");
}

#[test]
fn python_openai_async() {
    drive(&clients().join("python/bin/python"), "openai_async.py");
}

#[test]
fn huggingface_hub_inference_client() {
    drive(&clients().join("python/bin/python"), "hf_client.py");
}

#[test]
fn python_openai_structured_output() {
    drive(&clients().join("python/bin/python"), "structured.py");
}

#[test]
fn node_openai_structured_output() {
    drive(Path::new("node"), "structured.cjs");
}

#[test]
fn node_openai() {
    drive(Path::new("node"), "openai_node.cjs");
}

#[test]
fn python_langchain() {
    drive(&clients().join("python/bin/python"), "langchain.py");
}

#[test]
fn node_huggingface_inference() {
    drive(Path::new("node"), "hf_inference.mjs");
}

#[test]
fn node_vercel_ai() {
    drive(Path::new("node"), "vercel.mjs");
}

#[test]
fn python_openai_responses() {
    drive(&clients().join("python/bin/python"), "openai_responses.py");
}

#[test]
fn node_openai_responses() {
    drive(Path::new("node"), "openai_responses_node.cjs");
}
