//! Certificates that change while we run.

use crate::config::{ServiceSettings, Settings};
use crate::net::stamp::{LOOK, Stamp};
use crate::net::tls::TlsError;
use crate::rt::Tasks;
use std::path::PathBuf;

/// Something that is made of files.
struct Kept {
    /// The table of the configuration.
    table: String,
    files: Vec<PathBuf>,
    /// As they were when they were last read.
    stamps: Vec<Stamp>,
    reread: Box<dyn Fn() -> Result<(), TlsError> + Send>,
    /// What is wrong with what they hold now, and whether it was told.
    wrong: Option<(String, bool)>,
}

/// Takes renewed certificates of listeners, requests and checks into use, as long as the process runs. Connections that
/// are open go on as they are; files that cannot be used change nothing.
pub(super) fn watch(tasks: &Tasks, settings: &Settings) {
    let mut kept: Vec<_> = settings.services.iter().flat_map(of_service).collect();
    for listener in &settings.listeners {
        if let Some(tls) = listener.listen_tls.clone() {
            kept.extend(Kept::new(
                format!("listener.{}.listen_tls", listener.name),
                tls.files(),
                move || tls.reread(),
            ));
        }
    }
    for app in &settings.registrations {
        if let Some(tls) = app.check.tls.clone() {
            kept.extend(Kept::new(format!("register.{}.health.tls", app.name), tls.files(), move || {
                tls.reread()
            }));
        }
    }
    if kept.is_empty() {
        return;
    }
    tasks.spawn("certificates", move |stop| async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            for kept in &mut kept {
                kept.look().await;
            }
        }
    });
}

fn of_service(service: &ServiceSettings) -> impl Iterator<Item = Kept> {
    let table = |key: &str| format!("service.{}.{key}", service.name);
    let listener = service.listen_tls.clone();
    let requests = service.connections.tls.clone();
    let checks = service.check.as_ref().and_then(|check| check.tls.clone());
    let listener = listener.and_then(|tls| Kept::new(table("listen_tls"), tls.files(), move || tls.reread()));
    let requests = requests.and_then(|tls| Kept::new(table("tls"), tls.files(), move || tls.reread()));
    let checks = checks.and_then(|tls| Kept::new(table("health.tls"), tls.files(), move || tls.reread()));
    [listener, requests, checks].into_iter().flatten()
}

impl Kept {
    /// `None` if there are no files.
    fn new(
        table: String,
        files: Vec<PathBuf>,
        reread: impl Fn() -> Result<(), TlsError> + Send + 'static,
    ) -> Option<Self> {
        // They may have changed since they were read: the first look takes them anew.
        let stamps = Vec::new();
        (!files.is_empty()).then(|| Self { table, files, stamps, reread: Box::new(reread), wrong: None })
    }

    /// Certificate and key are two files: what is wrong only for a moment is not told.
    async fn look(&mut self) {
        let stamps = Stamp::of_all(&self.files).await;
        if stamps == self.stamps {
            if let Some((error, told @ false)) = &mut self.wrong {
                *told = true;
                tracing::warn!(
                    table = self.table,
                    error,
                    "certificates have changed and cannot be used: those before stay"
                );
            }
            return;
        }
        let first = std::mem::replace(&mut self.stamps, stamps).is_empty();
        match (self.reread)() {
            Ok(()) if first => {}
            Ok(()) => {
                self.wrong = None;
                tracing::info!(table = self.table, "certificates have changed and are in use");
            }
            Err(error) => self.wrong = Some((error.to_string(), false)),
        }
    }
}
