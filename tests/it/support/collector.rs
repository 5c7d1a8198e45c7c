//! A collector of traces, as OpenTelemetry's protocol has it: over HTTP and over gRPC.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Http,
    Grpc,
}

/// A collector at work until it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Bytes>>>,
    _runtime: Runtime,
}

impl Collector {
    pub fn start(wire: Wire) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::<Mutex<Vec<Bytes>>>::default();
        let messages = received.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match wire {
                    Wire::Http => _ = tokio::spawn(take_http(stream, messages.clone())),
                    Wire::Grpc => _ = tokio::spawn(take_grpc(stream, messages.clone())),
                }
            }
        });
        Self { address, received, _runtime: runtime }
    }

    /// Everything that came, as it came.
    pub fn bytes(&self) -> Vec<u8> {
        self.received.lock().expect("nobody panicked").concat()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().expect("nobody panicked");
        let requests = received
            .iter()
            .map(|bytes| ExportTraceServiceRequest::decode(&**bytes).expect("it is a request to export"));
        let scopes = requests.flat_map(|request| request.resource_spans).flat_map(|of| of.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

/// The value of an attribute as text; of a list its texts.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text_of(found.value.as_ref()?.value.as_ref()?))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::ArrayValue(list) => {
            let texts = list.values.iter().filter_map(|value| value.value.as_ref()).map(text_of);
            format!("[{}]", texts.collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// HTTP/1.1 with lengths, one request after the other.
async fn take_http(mut stream: TcpStream, messages: Arc<Mutex<Vec<Bytes>>>) {
    let mut read = Vec::new();
    loop {
        let Some(head_end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&read[..head_end]).to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces "), "{head}");
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("it has a length");
        let end = head_end + 4 + length.parse::<usize>().expect("a number");
        while read.len() < end {
            assert_ne!(stream.read_buf(&mut read).await.expect("the body comes"), 0, "the body is cut off");
        }
        let rest = read.split_off(end);
        messages.lock().expect("nobody panicked").push(Bytes::from(read.split_off(head_end + 4)));
        read = rest;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("the exporter listens");
    }
}

/// Unary calls: a message behind five bytes, and a status behind the answer.
async fn take_grpc(stream: TcpStream, messages: Arc<Mutex<Vec<Bytes>>>) {
    let mut connection = h2::server::handshake(stream).await.expect("it speaks HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        let messages = messages.clone();
        tokio::spawn(async move {
            let (mut body, mut read) = (request.into_body(), Vec::new());
            while let Some(chunk) = body.data().await {
                let chunk = chunk.expect("the message comes");
                body.flow_control().release_capacity(chunk.len()).expect("it was taken");
                read.extend_from_slice(&chunk);
            }
            messages.lock().expect("nobody panicked").push(Bytes::from(read.split_off(5)));
            let head = http::Response::builder().header("content-type", "application/grpc").body(());
            let mut answer = respond.send_response(head.expect("a head"), false).expect("it listens");
            answer.send_data(Bytes::from_static(&[0; 5]), false).expect("it listens");
            let status =
                [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
            answer.send_trailers(status.into_iter().collect()).expect("it listens");
        });
    }
}
