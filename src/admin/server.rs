//! Serving the admin address: few connections, none of them for ever, and the newest always gets in.

use super::Window;
use super::desk::Desk;
use super::router;
use crate::rt::{Stop, Tasks};
use http_body_util::Either;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections at once. Beyond it the one that was silent for longest makes room.
const CONNECTIONS: usize = 64;
/// For a request head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What runs when the process stops may take this long.
const LINGER: Duration = Duration::from_secs(1);
const HEAD_BYTES: usize = 16 * 1024;

/// Answers at `listener` until the group stops. To be called within the control runtime.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve(tasks: &Tasks, listener: std::net::TcpListener, window: Arc<Window>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let desk = Arc::new(Desk::new(window, tasks.stop_token()));
    let connections = tasks.clone();
    tasks.spawn("admin", |stop| async move {
        tokio::select! {
            () = accept(&connections, &listener, &desk) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

async fn accept(tasks: &Tasks, listener: &TcpListener, desk: &Arc<Desk>) {
    let seats = Arc::new(Seats::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (desk, guest) = (Arc::clone(desk), Guest::enter(&seats));
                tasks.spawn("admin connection", |stop| converse(stream, desk, guest, stop));
            }
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "the admin address cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, desk: Arc<Desk>, guest: Guest, stop: Stop) {
    // A socket that refuses will fail by itself.
    let _ = stream.set_nodelay(true);
    let seat = &guest.seat;
    let service = service_fn(|request| {
        guest.seats.touch(seat);
        let answer = router::answer(&desk, &request);
        seat.follows.store(matches!(answer.body(), Either::Right(_)), Ordering::Relaxed);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Its errors are the client's or were answered already.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = seat.leave.cancelled() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(LINGER, connection).await;
}

/// The connections there are.
#[derive(Debug, Default)]
struct Seats {
    /// Held for a look at a few dozen, never across an await.
    taken: Mutex<Vec<Arc<Seat>>>,
    /// Counts arrivals and requests: who has the lowest number was silent for longest.
    turns: AtomicU64,
}

#[derive(Debug)]
struct Seat {
    turn: AtomicU64,
    /// It follows the events: its silence is patience. There are fewer such seats than seats.
    follows: AtomicBool,
    /// Cancelled when somebody else gets the seat.
    leave: Stop,
}

/// Somebody with a seat; gives it back on drop.
#[derive(Debug)]
struct Guest {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

impl Seats {
    fn touch(&self, seat: &Seat) {
        seat.turn.store(self.turns.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    fn enter(seats: &Arc<Seats>) -> Self {
        let seat =
            Arc::new(Seat { turn: AtomicU64::default(), follows: AtomicBool::default(), leave: Stop::new() });
        seats.touch(&seat);
        let mut taken = seats.taken();
        if taken.len() >= CONNECTIONS {
            let silent = taken.iter().enumerate().filter(|(_, seat)| !seat.follows.load(Ordering::Relaxed));
            let longest = silent.min_by_key(|(_, seat)| seat.turn.load(Ordering::Relaxed));
            if let Some((place, _)) = longest {
                taken.swap_remove(place).leave.cancel();
            }
        }
        taken.push(Arc::clone(&seat));
        Self { seats: Arc::clone(seats), seat }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seats.taken().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_makes_room_but_no_follower() {
        let seats = Arc::new(Seats::default());
        let guests: Vec<_> = (0..CONNECTIONS).map(|_| Guest::enter(&seats)).collect();
        guests[0].seat.follows.store(true, Ordering::Relaxed);
        seats.touch(&guests[1].seat);
        assert!(guests.iter().all(|guest| !guest.seat.leave.is_cancelled()));
        let _late = Guest::enter(&seats);
        let left: Vec<_> = (0..CONNECTIONS).filter(|n| guests[*n].seat.leave.is_cancelled()).collect();
        assert_eq!(left, [2]);
        assert_eq!(seats.taken().len(), CONNECTIONS);
        drop(guests);
        assert_eq!(seats.taken().len(), 1);
    }
}
