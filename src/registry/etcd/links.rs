//! Connections that several clients use together: one to a member, however many services watch it.

use super::error::{EtcdError, chain};
use crate::net::stamp::Stamp;
use crate::registry::{Names, TlsFiles};
use hyper_util::client::legacy::connect::HttpConnector;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Keeps a connection for as long as a client uses it. Clones know the same connections; all are equal, since they say
/// nothing about how etcd is reached.
#[derive(Clone, Default)]
pub struct Links {
    slots: Arc<Mutex<Vec<Slot>>>,
    names: Names,
}

/// Where the connection to one member is found. Who makes it holds the lock until it is made or given up, so that
/// clients that start together make one.
struct Slot {
    member: String,
    tls: TlsFiles,
    link: Arc<tokio::sync::Mutex<Link>>,
}

/// A connection, and how the files of its certificates stood when it was made.
#[derive(Default)]
struct Link {
    channel: Weak<Channel>,
    stamps: Vec<Stamp>,
}

impl Links {
    /// The connection to `member` that somebody uses already, else a new one, of which the TCP part takes `limit` at
    /// most. `stamps` are those of the files before the endpoint read them.
    pub(super) async fn get(
        &self,
        member: &str,
        (tls, stamps): (&TlsFiles, Vec<Stamp>),
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Arc<Channel>, EtcdError> {
        let slot = self.slot(member, tls);
        let mut link = slot.lock().await;
        // With new certificates a new connection; who uses the old one goes on with it.
        if let Some(channel) = link.channel.upgrade()
            && link.stamps == stamps
        {
            return Ok(channel);
        }
        let channel = endpoint
            .connect_with_connector(self.connector(limit))
            .await
            .map_err(|e| EtcdError::Unavailable(format!("{member}: {}", chain(&e, "transport error"))))?;
        let channel = Arc::new(channel);
        *link = Link { channel: Arc::downgrade(&channel), stamps };
        Ok(channel)
    }

    /// The next who asks for it makes another connection: this one did not answer.
    pub(super) fn give_up(&self, member: &str, tls: &TlsFiles, channel: &Arc<Channel>) {
        // Where the lock is held another one is being made already.
        if let Ok(mut link) = self.slot(member, tls).try_lock()
            && std::ptr::eq(link.channel.as_ptr(), Arc::as_ptr(channel))
        {
            *link = Link::default();
        }
    }

    /// As the endpoint would make its own, but for the names.
    fn connector(&self, limit: Duration) -> HttpConnector<Names> {
        let mut connector = HttpConnector::new_with_resolver(self.names.clone());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(limit));
        connector
    }

    fn slot(&self, member: &str, tls: &TlsFiles) -> Arc<tokio::sync::Mutex<Link>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.iter().find(|slot| slot.member == member && slot.tls == *tls) {
            return Arc::clone(&slot.link);
        }
        let link = Arc::default();
        slots.push(Slot { member: member.to_owned(), tls: tls.clone(), link: Arc::clone(&link) });
        link
    }
}

impl PartialEq for Links {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Links {}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}
