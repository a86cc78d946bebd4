//! The application of the demo: it calls the sidecar at a steady rate and counts what fails.

use crate::rt::Tasks;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

use crate::telemetry::Counter;

/// What the application has seen.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub made: Counter,
    /// No answer, or none of 200.
    pub failed: Counter,
}

/// Calls that run at once; enough for some of them to hang in a slow instance.
const CALLERS: u32 = 8;

/// Calls `addr` `rate` times per second until the group stops.
pub(super) fn call(tasks: &Tasks, addr: SocketAddr, rate: u32) -> Arc<Calls> {
    let calls = Arc::<Calls>::default();
    if rate == 0 {
        return calls;
    }
    for index in 0..CALLERS {
        let seen = Arc::clone(&calls);
        let (tasks_inside, period) = (tasks.clone(), Duration::from_secs(1) * CALLERS / rate);
        tasks.spawn("caller", |stop| async move {
            let work = async {
                tokio::time::sleep(period * index / CALLERS).await;
                let mut tick = tokio::time::interval(period);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut connection = None;
                loop {
                    tick.tick().await;
                    seen.made.inc();
                    if !matches!(once(&tasks_inside, addr, &mut connection).await, Ok(StatusCode::OK)) {
                        seen.failed.inc();
                        connection = None;
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }
    calls
}

type Connection = Option<SendRequest<Empty<Bytes>>>;

async fn once(
    tasks: &Tasks,
    addr: SocketAddr,
    connection: &mut Connection,
) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
    let sender = match connection {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let stream = TcpStream::connect(addr).await?;
            let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
            tasks.spawn("call", |_| async move {
                // What goes wrong here, the request's own error says.
                let _ = driver.await;
            });
            connection.insert(sender)
        }
    };
    sender.ready().await?;
    let request = Request::get("/").header("host", addr.to_string()).body(Empty::new())?;
    let response: Response<Incoming> = sender.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}
