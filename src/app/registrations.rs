//! The local app's registrations: from settings to running keepers, and out of the registries again.

use crate::registration::{
    Advertise, Announcement, ConsulRegistrar, EtcdRegistrar, RegistrationSettings, Registry, State, Status,
    register,
};
use crate::rt::Tasks;
use crate::telemetry::{Events, Kind};
use rand::rngs::SmallRng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// What came of leaving the registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Nobody can have known of the app.
    Unknown,
    /// It left at least one of those that knew of it: others have to learn of that.
    Out,
    /// It is still listed wherever it was: nobody learns anything.
    Failed,
}

impl Withdrawal {
    /// Each registration's state before and after.
    fn of(states: impl IntoIterator<Item = (State, State)>) -> Self {
        let mut whole = Self::Unknown;
        for (_, after) in states.into_iter().filter(|(before, after)| is_known(*before) || is_known(*after)) {
            match after {
                State::Withdrawn => whole = Self::Out,
                _ if whole == Self::Unknown => whole = Self::Failed,
                _ => {}
            }
        }
        whole
    }
}

/// A registry may have it.
fn is_known(state: State) -> bool {
    matches!(state, State::Announcing | State::Announced | State::Failing)
}

/// All registrations of the local app. Dropping it ends none: call [`Self::withdraw_all`].
#[derive(Debug)]
pub struct Registrations {
    /// A group of their own, so that they end before everything else.
    tasks: Tasks,
    keepers: Vec<(Arc<Status>, AbortHandle)>,
}

impl Registrations {
    /// Starts to keep them all.
    ///
    /// # Errors
    /// What keeps one from being built, such as a certificate that cannot be read; its table before it.
    pub fn start(
        all: Vec<RegistrationSettings>,
        events: &Events,
        rng: &mut SmallRng,
    ) -> Result<Self, (String, String)> {
        let mut this = Self { tasks: Tasks::new(events.clone()), keepers: Vec::new() };
        for settings in all {
            let name = settings.name.to_string();
            this.keep(settings, rng).map_err(|reason| (name, reason))?;
        }
        Ok(this)
    }

    /// What is known of each, in the order of the configuration.
    pub fn statuses(&self) -> Vec<Arc<Status>> {
        self.keepers.iter().map(|(status, _)| Arc::clone(status)).collect()
    }

    /// Takes everything out, all at once, within `limit`. After that nothing is announced again, whatever came of it;
    /// what could not be taken out is an event.
    pub async fn withdraw_all(&self, limit: Duration) -> Withdrawal {
        let states = || self.keepers.iter().map(|(status, _)| status.view().state);
        let before: Vec<_> = states().collect();
        // A keeper that has ended need not have succeeded: its status tells.
        self.tasks.stop(limit).await;
        self.keepers.iter().for_each(|(_, keeper)| keeper.abort());
        for view in self.keepers.iter().map(|(status, _)| status.view()).filter(|view| is_known(view.state)) {
            let error = view.last_error.unwrap_or_else(|| "no answer".to_owned());
            let ttl = humantime::format_duration(view.ttl);
            let detail = format!(
                "{} could not be taken out within {limit:?} ({error}); its lease ends after {ttl}",
                view.id
            );
            self.tasks.events().emit(Kind::RegistrationFailing, &view.service, Some(view.address), detail);
        }
        Withdrawal::of(before.into_iter().zip(states()))
    }

    fn keep(&mut self, settings: RegistrationSettings, rng: &mut SmallRng) -> Result<(), String> {
        let (ip, why) = advertised(settings.address);
        let announcement = Announcement {
            service: settings.service.clone(),
            id: settings.id.clone(),
            addr: SocketAddr::new(ip, settings.port),
            tags: settings.tags.clone(),
            meta: settings.meta.clone(),
            weight: settings.weight,
            zone: settings.zone.clone(),
        };
        let (service, id) = (announcement.service.as_str(), announcement.id.as_str());
        tracing::info!(service, id, addr = %announcement.addr, why, registry = settings.url, "registering");
        let status = Arc::new(Status::new(&settings, announcement.clone()));
        let RegistrationSettings { ttl, reassert, .. } = settings;
        let keeper = match settings.to.clone() {
            Registry::Consul { settings: consul, check, deregister_after } => {
                let check = (check, &settings.check);
                let times = (ttl, deregister_after, reassert);
                let registrar = ConsulRegistrar::new(consul, &announcement, check, times);
                register(&self.tasks, &settings, &status, registrar.map_err(|e| e.to_string())?, rng)
            }
            Registry::Etcd { settings: etcd, prefix } => {
                let registrar = EtcdRegistrar::new(etcd, &announcement, &prefix, ttl, reassert);
                register(&self.tasks, &settings, &status, registrar, rng)
            }
        };
        self.keepers.push((status, keeper));
        Ok(())
    }
}

/// The address that others are told, and why this one.
fn advertised(address: Advertise) -> (IpAddr, &'static str) {
    match address {
        Advertise::Given(ip, why) => (ip, why),
        Advertise::Route => match routed() {
            Some(ip) => (ip, "the address of the default route"),
            None => (Ipv4Addr::LOCALHOST.into(), "there is no default route: only this machine can use it"),
        },
    }
}

/// This machine's address on the way out, asked of the kernel; nothing is sent. Addresses for documentation
/// (RFC 5737, RFC 3849) stand for "anywhere".
fn routed() -> Option<IpAddr> {
    let of = |from: &str, to: &str| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    };
    of("0.0.0.0", "198.51.100.1").or_else(|| of("::", "2001:db8::1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_learn_of_it_if_the_app_is_out_of_one_registry_at_least() {
        use State::{Announced, Announcing, Failing, Pending, Withdrawn};
        let of = |states: &[(State, State)]| Withdrawal::of(states.iter().copied());
        assert_eq!(of(&[]), Withdrawal::Unknown);
        assert_eq!(of(&[(Pending, Withdrawn), (Withdrawn, Withdrawn)]), Withdrawal::Unknown);
        assert_eq!(
            of(&[(Pending, Pending)]),
            Withdrawal::Unknown,
            "its keeper panicked before it did anything"
        );
        assert_eq!(of(&[(Announced, Withdrawn), (Announced, Announced)]), Withdrawal::Out);
        assert_eq!(of(&[(Failing, Failing), (Announced, Withdrawn)]), Withdrawal::Out);
        assert_eq!(of(&[(Announced, Announced), (Pending, Withdrawn)]), Withdrawal::Failed);
        assert_eq!(of(&[(Announcing, Announcing)]), Withdrawal::Failed);
        assert_eq!(
            of(&[(Pending, Announced)]),
            Withdrawal::Failed,
            "announced in the very moment of the stop"
        );
    }
}
