//! Listening for the application, and dealing its connections out to the workers.

use super::place::Place;
use super::welcome::Doorman;
use super::worker::{Shared, Worker};
use crate::cluster::Cluster;
use crate::net::tls::server::TlsServer;
use crate::rt::{LocalTasks, Stop, WorkerThreads};
use crate::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

/// Connections that may wait for us in the kernel; it grants no more than net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How long a stop waits before it tells clients: a connection made just before it may have its request under way.
const LINGER: Duration = Duration::from_millis(100);

/// The pause after a failed accept: out of descriptors, most likely, and others must end first.
const PAUSE: Duration = Duration::from_millis(50);

/// A listening socket, and the service behind it.
#[derive(Debug)]
pub struct Bound {
    pub listener: std::net::TcpListener,
    pub cluster: Arc<Cluster>,
    /// What it speaks under HTTP.
    pub tls: Option<TlsServer>,
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
    doorman: Option<Doorman>,
    place: Place,
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
        tasks.spawn("accept", accept(Rc::clone(&worker), Arc::clone(&hands), bound, stop.clone()));
    }
    // The accepting tasks alone hold hands now: when the last of them has ended, the inbox says so.
    drop(hands);
    let sweep = tasks.spawn("sweep", Rc::clone(&worker).sweep());
    let lull = tasks.spawn("lull", Rc::clone(&worker).lull());
    let take = |dealt: Dealt| {
        if let Ok(stream) = TcpStream::from_std(dealt.stream) {
            worker.take(stream, dealt.peer, dealt.cluster, dealt.doorman, dealt.place);
        }
    };
    loop {
        tokio::select! {
            Some(dealt) = inbox.recv() => take(dealt),
            () = stop.cancelled() => break,
        }
    }
    let begun = Instant::now();
    let (mut dealing, mut told) = (true, false);
    while (dealing || worker.clients() > 0) && begun.elapsed() < drain {
        if !told && begun.elapsed() >= LINGER.min(drain / 2) {
            told = true;
            worker.stop();
        }
        tokio::select! {
            dealt = inbox.recv(), if dealing => match dealt {
                // Connected before the stop: served like any other.
                Some(dealt) => take(dealt),
                None => dealing = false,
            },
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    sweep.abort();
    lull.abort();
}

/// Accepts for one service, as long as connections are allowed; at the stop, what had connected before it.
async fn accept(worker: Rc<Worker>, hands: Arc<[mpsc::UnboundedSender<Dealt>]>, bound: Bound, stop: Stop) {
    let Bound { listener, cluster, tls } = bound;
    let doorman = tls.map(Doorman::new);
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    // Not before a connection is here: a quiet listener must not keep what another one needs.
    let permit = || Arc::clone(&worker.shared.permits).acquire_owned();
    let deal = |stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit| {
        let place = Place::take(&worker.shared, worker.index, permit);
        if place.worker == worker.index {
            worker.take(stream, peer, Arc::clone(&cluster), doorman.clone(), place);
        } else if let Some(hand) = hands.get(place.worker)
            && let Ok(stream) = stream.into_std()
        {
            let (cluster, doorman) = (Arc::clone(&cluster), doorman.clone());
            // A worker that has ended takes nothing more: so does the whole process.
            let _ = hand.send(Dealt { stream, peer, cluster, doorman, place });
        }
    };
    let mut failing = false;
    let mut waiting = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(service = %cluster.name(), "connections are accepted again");
                }
                tokio::select! {
                    Ok(permit) = permit() => deal(stream, peer, permit),
                    () = stop.cancelled() => {
                        waiting = Some((stream, peer));
                        break;
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(service = %cluster.name(), %error, "connections cannot be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    for (stream, peer) in waiting.into_iter().chain(connected(listener)) {
        let Ok(permit) = permit().await else { return };
        deal(stream, peer, permit);
    }
}

/// Closes a listener, and takes the connections that the kernel has made for it already: closing it resets them.
///
/// The system itself is asked, since the runtime may not have heard of the newest.
fn connected(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| listener.accept().ok())
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        assert_eq!(bind(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
