//! Clients that leave.
//!
//! actix notices a closed connection only when it writes: not while a handler computes, nor while a stream is idle. So
//! each connection's socket is watched through a second descriptor for the end of what the client sends; half-closed
//! counts as gone. What is seen cancels the connection's token.
//!
//! The same watch closes a connection on which no request begins for long ([`idle`](crate::idle)): actix has a limit on
//! the time that the first head of a connection takes, and none on that of the next.

use std::any::Any;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;
use std::{io, net};

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use candlewick_protocol::ErrorKind;
use tokio::io::Interest;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::ApiError;
use crate::idle::Requests;
use crate::wire::error::Fault;

/// What a connection carries with it.
struct Connection {
    /// Cancelled when the client leaves.
    gone: CancellationToken,
    /// Cancelled to close the half on which the client sends.
    hang_up: CancellationToken,
    /// Cancelled when the server has done with the connection.
    done: CancellationToken,
    /// Ends the watch with the connection. Without it the second descriptor would keep a socket open that the server
    /// has done with.
    _watched: DropGuard,
}

/// Watches a new connection, which may be idle for so long. For `HttpServer::on_connect`.
pub fn watch(io: &dyn Any, data: &mut Extensions, idle_timeout: Duration) {
    let Some(stream) = io.downcast_ref::<TcpStream>() else {
        tracing::debug!(
            "not a TCP connection: a client that leaves is noticed when the next frame is written"
        );
        return;
    };
    let socket = match second_descriptor(stream) {
        Ok(socket) => socket,
        // Out of descriptors: serve the connection all the same.
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be watched");
            return;
        }
    };
    let gone = CancellationToken::new();
    let done = CancellationToken::new();
    let watched = done.clone().drop_guard();
    let hang_up = CancellationToken::new();
    let (seen, asked, over) = (gone.clone(), hang_up.clone(), done.clone());
    let requests = Requests::default();
    let idle = requests.idle_for(idle_timeout);
    actix_web::rt::spawn(async move {
        tokio::select! {
            () = over.cancelled() => {}
            () = read_closed(&socket) => seen.cancel(),
            () = asked.cancelled() => close_read(socket),
            () = idle => close_read(socket),
        }
    });
    data.insert(requests);
    data.insert(Connection { gone, hang_up, done, _watched: watched });
}

/// The same socket once more, registered for itself, so that its readiness is ours to forget.
fn second_descriptor(stream: &TcpStream) -> io::Result<TcpStream> {
    let descriptor = stream.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(net::TcpStream::from(descriptor))
}

/// Returns when the other side has closed its half, or the socket is broken. Reads nothing.
async fn read_closed(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            // Bytes for actix to read. Forget them here, and be woken by the next.
            Ok(_) => _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into())),
            Err(_) => return,
        }
    }
}

/// Ends what the client can send; actix finds the end, and closes. Both descriptors are of one socket.
fn close_read(socket: TcpStream) {
    let closed = socket.into_std().and_then(|socket| socket.shutdown(Shutdown::Read));
    if let Err(error) = closed {
        tracing::debug!(%error, "a connection was closed already");
    }
}

/// The means to close a connection on which nothing comes that should.
pub struct HangUp {
    hang_up: CancellationToken,
    done: CancellationToken,
}

impl HangUp {
    /// Closes the connection after a while, if it is still there.
    pub fn after(self, patience: Duration) {
        actix_web::rt::spawn(async move {
            if self.done.run_until_cancelled(tokio::time::sleep(patience)).await.is_some() {
                self.hang_up.cancel();
            }
        });
    }
}

/// The means to close a request's connection; `None` if it is not watched.
pub fn hang_up(request: &HttpRequest) -> Option<HangUp> {
    let connection = request.conn_data::<Connection>()?;
    Some(HangUp { hang_up: connection.hang_up.clone(), done: connection.done.clone() })
}

/// The token of a request's connection; one that is never cancelled if the connection is not watched.
pub fn token(request: &HttpRequest) -> CancellationToken {
    request.conn_data::<Connection>().map(|connection| connection.gone.clone()).unwrap_or_default()
}

/// The answer that nobody reads: for the log.
pub fn client_closed() -> ApiError {
    ApiError::new(Fault::Kind(ErrorKind::Cancelled), "the client closed the connection")
}
