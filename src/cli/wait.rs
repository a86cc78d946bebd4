//! `outrigger wait`: until a running sidecar is ready, for start-up scripts that know of no dependencies.

use super::{Outcome, Output, config_file, control_runtime};
use crate::config::{self, Environment};
use crate::registry::Names;
use bytes::Bytes;
use clap::Args;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Block until the running sidecar is ready: every service has a usable instance.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The sidecar's configuration, for its admin address; else as `run` finds it, else 127.0.0.1:9901.
    #[arg(conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// How long at most.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The sidecar's admin address, such as http://127.0.0.1:9901. Default: $OUTRIGGER_ADMIN_URL.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

/// Between two questions, and the time for one.
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);
/// More of an answer is not read.
const LONGEST: usize = 64 * 1024;

impl Wait {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let addr = match self.addr(&Environment::Process) {
            Ok(addr) => addr,
            Err(error) => {
                output.error(error);
                return Outcome::Refused;
            }
        };
        match control_runtime() {
            Ok(runtime) => runtime.block_on(until_ready(&addr, self.timeout, output)),
            Err(error) => {
                output.error(format_args!("cannot start: {error}"));
                Outcome::Failed
            }
        }
    }

    /// HOST:PORT of the admin address.
    fn addr(&self, env: &Environment) -> Result<String, String> {
        const VARIABLE: &str = "OUTRIGGER_ADMIN_URL";
        if let Some(text) = &self.admin {
            return authority(text).map_err(|error| format!("--admin: {error}"));
        }
        if self.config.is_none()
            && let Some(text) = env.get_filled(VARIABLE)
        {
            return authority(&text).map_err(|error| format!("environment variable {VARIABLE}: {error}"));
        }
        // Without a file there may still be a sidecar, started with --listen and --to.
        let listen = match config_file(self.config.clone(), env) {
            Ok(file) => {
                config::load(&file, env).map_err(|problems| problems.to_string())?.settings.admin.listen
            }
            Err(_) => config::AdminSettings::default().listen,
        };
        let mut addr = listen
            .ok_or("the configuration turns the admin address off (admin.listen): there is nobody to ask")?;
        if addr.ip().is_unspecified() {
            let v4 = addr.is_ipv4();
            addr.set_ip(if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        Ok(addr.to_string())
    }
}

fn authority(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no admin address: write for example http://127.0.0.1:9901");
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(addr.to_string());
    }
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => {
            Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
        }
        _ => Err(wrong()),
    }
}

async fn until_ready(addr: &str, limit: Duration, output: &mut Output) -> Outcome {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let why = match timeout(PATIENCE.min(limit.saturating_sub(begun.elapsed())), ask(addr)).await {
            Ok(Ok((StatusCode::OK, _))) => return Outcome::Fine,
            Ok(Ok((_, text))) => text.trim().to_owned(),
            Ok(Err(error)) => format!("no sidecar answers at {addr}: {error}"),
            Err(_) => format!("no sidecar answers at {addr} within {PATIENCE:?}"),
        };
        if begun.elapsed() >= limit {
            output.error(format_args!("not ready after {}: {why}", humantime::format_duration(limit)));
            return Outcome::Failed;
        }
        if why != told {
            output.error(format_args!("waiting: {why}"));
            told = why;
        }
        sleep(PAUSE.min(limit.saturating_sub(begun.elapsed()))).await;
    }
}

/// The answer of `/readyz`.
async fn ask(addr: &str) -> Result<(StatusCode, String), Box<dyn Error>> {
    let (host, port) = addr.rsplit_once(':').ok_or("there is no port")?;
    let port: u16 = port.parse()?;
    let ips = Names::default().addresses(host).await?;
    let addrs: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    let stream = TcpStream::connect(&*addrs).await?;
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz").header(HOST, addr).body(Empty::new())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, Box<dyn Error>>((head.status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(ended.err().map_or("the connection was closed".into(), Into::into)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_may_be_a_url_or_a_plain_address() {
        for (text, addr) in [
            ("http://127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://localhost:1/x", "localhost:1"),
            ("127.0.0.1:2", "127.0.0.1:2"),
            ("[::1]:3", "[::1]:3"),
            ("http://[::1]:4", "[::1]:4"),
            ("http://sidecar", "sidecar:80"),
        ] {
            assert_eq!(authority(text).unwrap(), addr);
        }
        for bad in ["", "9901", "https://h:1", "ftp://h", "http://"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_named_goes_before_the_environment() {
        let env = |pairs: &[(&str, &str)]| {
            let own = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Environment::Fixed(own.collect())
        };
        let wait = |admin: Option<&str>| Wait {
            config: None,
            timeout: Duration::ZERO,
            admin: admin.map(ToOwned::to_owned),
        };
        let set = env(&[("OUTRIGGER_ADMIN_URL", "http://127.0.0.1:7")]);
        assert_eq!(wait(Some("127.0.0.1:8")).addr(&set).unwrap(), "127.0.0.1:8");
        assert_eq!(wait(None).addr(&set).unwrap(), "127.0.0.1:7");
        let wrong = env(&[("OUTRIGGER_ADMIN_URL", "x")]);
        assert!(
            wait(None).addr(&wrong).unwrap_err().starts_with("environment variable OUTRIGGER_ADMIN_URL: ")
        );
    }
}
