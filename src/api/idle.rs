//! Connections on which nothing happens: how many requests each has begun and is being answered, and when the last ended.
//!
//! A head that comes byte by byte is no request yet. So a client that keeps a connection busy without ever asking anything
//! is told from one that asks, and from one that waits for its answer.

use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::keeping::keeping;

/// The requests of a connection.
#[derive(Clone, Default)]
pub struct Requests(watch::Sender<Count>);

/// Both are told: a request may begin and end between two looks.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    num_begun: u64,
    num_in_flight: u64,
}

impl Requests {
    fn begin(&self) -> InFlight {
        self.0.send_modify(|count| {
            count.num_begun += 1;
            count.num_in_flight += 1;
        });
        InFlight(self.clone())
    }

    /// Returns once no request has been in flight for so long.
    pub fn idle_for(&self, at_most: Duration) -> impl Future<Output = ()> + use<> {
        let mut requests = self.0.subscribe();
        async move {
            let mut num_begun = 0;
            loop {
                let begun = requests.wait_for(|count| count.num_begun != num_begun);
                num_begun = match timeout(at_most, begun).await {
                    Ok(Ok(count)) => count.num_begun,
                    // The connection is closed, and the watch over it ends.
                    Ok(Err(_)) => return std::future::pending().await,
                    Err(_) => return,
                };
                if requests.wait_for(|count| count.num_in_flight == 0).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// A request that is being answered, until the last of its answer was handed over.
struct InFlight(Requests);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.num_in_flight -= 1);
    }
}

fn begin(request: &HttpRequest) -> Option<InFlight> {
    Some(request.conn_data::<Requests>()?.begin())
}

/// Counts the request as in flight until its answer is written.
pub async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let in_flight = begin(request.request());
    let response = next.call(request).await?;
    Ok(keeping(response, in_flight))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn requests_keep_a_connection_and_silence_does_not() {
        const AT_MOST: Duration = Duration::from_millis(400);
        let requests = Requests::default();
        let mut idle = pin!(requests.idle_for(AT_MOST));
        let mut ticks = tokio::time::interval(AT_MOST / 4);
        // Each has begun and ended before anybody looks.
        for _ in 0..8 {
            drop(requests.begin());
            tokio::select! {
                _ = ticks.tick() => {}
                () = &mut idle => panic!("a connection that is in use was given up"),
            }
        }
        let long = requests.begin();
        assert!(timeout(AT_MOST * 2, &mut idle).await.is_err(), "its answer takes long");
        drop(long);
        timeout(AT_MOST * 50, idle).await.expect("nothing happens any more");
    }
}
