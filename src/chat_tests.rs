//! The client of `candlewick chat` against servers on loopback: one that is like ours, and others that are not.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::chat_client::{ChatClient, ChatPiece, ClientError, LoadFrame};

/// Answers each connection with what `script` has for its request line, and keeps the requests.
async fn server(script: &'static [(&'static str, &'static str)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut buffer = [0; 4096];
                let count = socket.read(&mut buffer).await.expect("the client writes");
                assert_ne!(count, 0, "the client hung up");
                request.extend_from_slice(&buffer[..count]);
            }
            let request = String::from_utf8(request).expect("text");
            let found = script.iter().find(|(start, _)| request.starts_with(start));
            let answer =
                found.map_or("404 Not Found\r\n\r\n{\"detail\":\"Not Found\"}", |(_, answer)| answer);
            seen.lock().expect("no test panics here").push(request);
            let answer = format!("HTTP/1.1 {}", answer.replacen("\r\n", "\r\nconnection: close\r\n", 1));
            socket.write_all(answer.as_bytes()).await.expect("the client reads");
        }
    });
    (url, requests)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_ascii_lowercase();
    let length = length
        .lines()
        .find_map(|line| line.strip_prefix("content-length:").map(str::trim).map(str::to_owned));
    body.len() >= length.map_or(0, |length| length.parse().expect("a number"))
}

fn body() -> Map<String, Value> {
    json!({"model": "m", "messages": [], "stream": true}).as_object().expect("an object").clone()
}

async fn pieces(client: &ChatClient) -> Result<Vec<ChatPiece>, ClientError> {
    let mut answer = client.chat(&body()).await?;
    let mut pieces = Vec::new();
    while let Some(piece) = answer.next().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

#[tokio::test]
async fn a_server_without_load_model_is_talked_to_all_the_same() {
    let (url, requests) = server(&[
        ("GET /health", "200 OK\r\n\r\nfine"),
        (
            "POST /v1/chat/completions",
            "200 OK\r\n\r\n: hello\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        ),
    ])
    .await;
    let client = ChatClient::new(url, Some("sk-1".into())).expect("a client");
    client.check_health().await.expect("well");
    assert!(
        !client.load_model("m", |_| {}).await.expect("no error"),
        "it cannot load models, and that is fine"
    );
    assert_eq!(
        pieces(&client).await,
        Ok(vec![ChatPiece::Text("hi".into()), ChatPiece::Finish("stop".into())])
    );
    let requests = requests.lock().expect("no test panics here");
    assert!(requests.iter().all(|request| request.contains("authorization: Bearer sk-1")), "{requests:?}");
    assert!(requests[2].contains(r#""model":"m""#));
}

#[tokio::test]
async fn the_frames_of_a_load_are_shown_and_its_failure_told() {
    let (url, _) = server(&[(
        "POST /load_model",
        "200 OK\r\n\r\ndata: {\"status\": \"loading\", \"model\": \"m@main\", \"stage\": \"processor\"}\n\n\
         data: {\"status\": \"error\", \"model\": \"m@main\", \"message\": \"no such model\"}\n\n",
    )])
    .await;
    let client = ChatClient::new(url, None).expect("a client");
    let mut frames = Vec::new();
    let error = client.load_model("m", |frame| frames.push(frame.clone())).await.expect_err("it fails");
    assert_eq!(error.to_string(), "no such model");
    assert_eq!(frames[0], LoadFrame::Loading { stage: "processor".into(), progress: None });
}

#[tokio::test]
async fn a_load_that_breaks_off_is_no_success() {
    let (url, _) = server(&[("POST /load_model", "200 OK\r\n\r\n: nothing\n\n")]).await;
    let client = ChatClient::new(url, None).expect("a client");
    assert!(matches!(client.load_model("m", |_| {}).await, Err(ClientError::Broken(_))));
}

#[tokio::test]
async fn refusals_are_told_in_the_server_s_words() {
    let (url, _) = server(&[
        ("GET /health", "503 Service Unavailable\r\n\r\n{\"status\":\"unhealthy\"}"),
        ("POST /v1/chat", "401 Unauthorized\r\n\r\n{\"error\":{\"message\":\"wrong key\"}}"),
    ])
    .await;
    let client = ChatClient::new(url, None).expect("a client");
    assert!(matches!(client.check_health().await, Err(ClientError::Refused { status: 503, .. })));
    let error = pieces(&client).await.expect_err("no key").to_string();
    assert!(error.contains("wrong key") && error.contains("--api-key"), "{error}");
}

#[tokio::test]
async fn a_place_where_nobody_answers_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let client = ChatClient::new(&url, None).expect("a client");
    let error = client.check_health().await.expect_err("nobody is there").to_string();
    assert!(error.contains(&url) && error.contains("candlewick serve"), "{error}");
}
