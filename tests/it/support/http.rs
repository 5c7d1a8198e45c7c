//! A raw HTTP/1.1 client: tests read the bytes that a real client would, chunk by chunk.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Far beyond anything a test waits for; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer whose head has been read; its body may still be arriving.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    body: Body,
}

struct Body {
    stream: BufReader<TcpStream>,
    framing: Framing,
    ended: bool,
    /// What was read of it before it was asked for.
    read: Vec<u8>,
}

enum Framing {
    Length(usize),
    Chunked,
}

/// Sends bytes as they are and reads the head of the answer.
pub fn send(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_nodelay(true).expect("nodelay can be set");
    stream.write_all(request).expect("the request can be sent");
    read_head(BufReader::new(stream))
}

/// A request with a JSON body (or none) and extra headers.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str("host: localhost\r\n");
    }
    if !body.is_empty() {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.push_str(&body);
    send(address, head.as_bytes())
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], None)
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    request(address, "POST", path, &[], Some(body))
}

/// The same answer with all of its body, or `None` if the body stands still for so long: then the client has left.
pub fn with_patience(mut answer: Answer, patience: Duration) -> Option<Answer> {
    let stream = answer.body.stream.get_ref();
    stream.set_read_timeout(Some(patience)).expect("a timeout can be set");
    let mut bytes = Vec::new();
    while !answer.body.ended {
        match answer.body.try_next_part() {
            Ok(part) => bytes.extend(part.unwrap_or_default()),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                return None;
            }
        }
    }
    answer.body.read = bytes;
    Some(answer)
}

/// Reads the head of an answer that is already on its way.
pub fn read_head(mut stream: BufReader<TcpStream>) -> Answer {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a status line comes");
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status in {line:?}"));
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).expect("headers come");
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').expect("a header has a colon");
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let framing = match find("transfer-encoding") {
        Some("chunked") => Framing::Chunked,
        _ => Framing::Length(find("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)),
    };
    Answer { status, headers, body: Body { stream, framing, ended: false, read: Vec::new() } }
}

impl Answer {
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// The rest of the body as text.
    pub fn text(mut self) -> String {
        let mut bytes = Vec::new();
        while let Some(part) = self.body.next_part() {
            bytes.extend(part);
        }
        String::from_utf8(bytes).expect("bodies are UTF-8")
    }

    /// The body as JSON.
    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"))
    }

    /// The body as SSE frames, one at a time, without the blank line between them.
    pub fn frames(self) -> Frames {
        Frames { body: self.body, buffer: Vec::new() }
    }

    /// All `data:` frames but `[DONE]`, as JSON. Asserts that `[DONE]` is last if it is there.
    pub fn chunks(self) -> Vec<Value> {
        let mut data = self
            .frames()
            .filter_map(|frame| frame.strip_prefix("data: ").map(str::to_owned))
            .collect::<Vec<_>>();
        if data.last().is_some_and(|last| last == "[DONE]") {
            data.pop();
        }
        data.iter()
            .map(|text| serde_json::from_str(text).unwrap_or_else(|_| panic!("not JSON: {text:?}")))
            .collect()
    }
}

/// SSE frames as they arrive. Dropping it closes the connection, as a client that leaves does.
pub struct Frames {
    body: Body,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next frame that is not a comment.
    pub fn next_data(&mut self) -> Option<String> {
        self.find(|frame| !frame.starts_with(':'))
    }
}

impl Iterator for Frames {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(frame[..end].to_vec()).expect("frames are UTF-8"));
            }
            self.buffer.extend(self.body.next_part()?);
        }
    }
}

impl Body {
    fn next_part(&mut self) -> Option<Vec<u8>> {
        self.try_next_part().expect("the whole body comes")
    }

    fn try_next_part(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if !self.read.is_empty() {
            return Ok(Some(std::mem::take(&mut self.read)));
        }
        if self.ended {
            return Ok(None);
        }
        match self.framing {
            Framing::Length(length) => {
                let mut bytes = vec![0; length];
                self.stream.read_exact(&mut bytes)?;
                self.ended = true;
                Ok(Some(bytes))
            }
            Framing::Chunked => {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16)
                    .unwrap_or_else(|_| panic!("no chunk size in {line:?}"));
                let mut bytes = vec![0; size + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(size);
                self.ended = size == 0;
                Ok((size > 0).then_some(bytes))
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}
