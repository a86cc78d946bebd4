//! An application instance to test a proxy with: a small HTTP/1.1 server that is told how to behave.
//!
//! A process of its own, so that a test can stop (SIGSTOP) and kill it as a machine would.

mod body;
mod pattern;
mod routes;

use clap::Parser;
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Answers HTTP/1.1 requests; the path says how (see `routes.rs`).
#[derive(Debug, Parser)]
struct Args {
    /// Port to listen on.
    #[arg(long)]
    port: u16,
    /// What the answers say who they come from.
    #[arg(long)]
    name: String,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Answer everything with this status, except health checks and `/count`.
    #[arg(long)]
    status: Option<StatusCode>,
    /// Answer everything this much later (milliseconds), except health checks and `/count`.
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

/// What the answers depend on.
#[derive(Debug)]
struct Instance {
    name: String,
    status: Option<StatusCode>,
    delay: Duration,
    /// The status of `/health`.
    health: AtomicU16,
    /// Requests by path. Held for one addition or one copy.
    seen: Mutex<BTreeMap<String, u64>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind((args.host, args.port)).await?;
    let instance = Arc::new(Instance {
        name: args.name,
        status: args.status,
        delay: Duration::from_millis(args.delay),
        health: AtomicU16::new(200),
        seen: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                number += 1;
                connections.spawn(serve(stream, number, Arc::clone(&instance)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, connection: u64, instance: Arc<Instance>) {
    // Without it the answers still arrive, only later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| routes::answer(&instance, connection, request));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        eprintln!("connection {connection}: {error}");
    }
}
