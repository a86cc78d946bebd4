//! Listening for the application, and dealing its connections out to the workers.

use super::worker::{Shared, Worker};
use crate::cluster::Cluster;
use crate::rt::{LocalTasks, Stop, WorkerThreads};
use crate::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Connections that may wait for us in the kernel.
const BACKLOG: i32 = 1024;

/// A listening socket, and the service behind it.
#[derive(Debug)]
pub struct Bound {
    pub listener: std::net::TcpListener,
    pub cluster: Arc<Cluster>,
}

/// Opens a listening socket; an IPv6 address does not take its IPv4 twin.
///
/// # Errors
/// What the system says.
pub fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A port whose last owner has just ended is free; one in use is not.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A client connection on its way to a worker.
struct Dealt {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    cluster: Arc<Cluster>,
    permit: OwnedSemaphorePermit,
}

/// All workers.
#[derive(Debug)]
pub struct Crew {
    threads: WorkerThreads,
}

impl Crew {
    /// Starts the workers; they serve until `stop`, then finish what runs for at most `drain`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        workers: usize,
        bound: Vec<Bound>,
        shared: &Arc<Shared>,
        events: &Events,
        stop: &Stop,
        drain: Duration,
    ) -> io::Result<Self> {
        let (hands, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let hands: Arc<[_]> = hands.into();
        // Listeners are spread over the workers, and each deals its connections to all of them.
        let mut shares: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, bound) in bound.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(index % workers) {
                share.push(bound);
            }
        }
        let mut threads = WorkerThreads::default();
        for (index, (inbox, share)) in inboxes.into_iter().zip(shares).enumerate() {
            let (shared, events, stop) = (Arc::clone(shared), events.clone(), stop.clone());
            let hands = Arc::clone(&hands);
            threads.start(index, move || work(index, inbox, share, hands, shared, events, stop, drain))?;
        }
        Ok(Self { threads })
    }

    /// Waits until all workers have ended; blocks the thread.
    pub fn join(self) {
        self.threads.join();
    }
}

#[expect(clippy::too_many_arguments, reason = "a thread's whole world, handed over once")]
async fn work(
    index: usize,
    mut inbox: mpsc::UnboundedReceiver<Dealt>,
    share: Vec<Bound>,
    hands: Arc<[mpsc::UnboundedSender<Dealt>]>,
    shared: Arc<Shared>,
    events: Events,
    stop: Stop,
    drain: Duration,
) {
    let tasks = LocalTasks::new(events);
    let worker = Worker::new(index, shared, tasks.clone(), SmallRng::from_rng(&mut rand::rng()));
    for bound in share {
        let (worker, hands, stop) = (Rc::clone(&worker), Arc::clone(&hands), stop.clone());
        tasks.spawn("accept", async move {
            tokio::select! {
                () = accept(&worker, &hands, bound) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    let sweep = tasks.spawn("sweep", Rc::clone(&worker).sweep());
    let take = |dealt: Dealt| {
        if let Ok(stream) = TcpStream::from_std(dealt.stream) {
            worker.take(stream, dealt.peer, dealt.cluster, dealt.permit);
        }
    };
    loop {
        tokio::select! {
            Some(dealt) = inbox.recv() => take(dealt),
            () = stop.cancelled() => break,
        }
    }
    // Accepted before the stop: served like any other.
    while let Ok(dealt) = inbox.try_recv() {
        take(dealt);
    }
    worker.stop();
    let deadline = tokio::time::Instant::now() + drain;
    while worker.clients() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sweep.abort();
}

/// Accepts for one service, as long as connections are allowed.
async fn accept(worker: &Rc<Worker>, hands: &[mpsc::UnboundedSender<Dealt>], bound: Bound) {
    let Bound { listener, cluster } = bound;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Not before a connection is here: a quiet listener must not keep what another one needs.
        let Ok(permit) = Arc::clone(&worker.shared.permits).acquire_owned().await else { return };
        let chosen = least(&worker.shared.loads);
        if let Some(load) = worker.shared.loads.get(chosen) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        if chosen == worker.index {
            worker.take(stream, peer, Arc::clone(&cluster), permit);
        } else if let (Ok(stream), Some(hand)) = (stream.into_std(), hands.get(chosen)) {
            // A worker that has ended takes nothing more: so does the whole process.
            let _ = hand.send(Dealt { stream, peer, cluster: Arc::clone(&cluster), permit });
        }
    }
}

/// The worker with the fewest client connections.
fn least(loads: &[AtomicUsize]) -> usize {
    let fewest = loads.iter().enumerate().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
    fewest.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_the_worker_with_the_fewest() {
        let loads: Vec<_> = [2, 1, 3].map(AtomicUsize::new).into();
        assert_eq!(least(&loads), 1);
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        assert_eq!(bind(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
