//! Where the demo's instances are found: a file that the demo writes, or the user's registry, where they announce
//! themselves.

use super::instance::Instance;
use crate::config::{self, Environment};
use crate::registration::RegistrationSettings;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the service is called where the URL names none.
const SERVICE: &str = "hello";
/// Short, so that a killed instance is gone from the registry while somebody looks on.
const TTL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Registry {
    File {
        path: PathBuf,
        /// It goes with the demo.
        _folder: Folder,
    },
    Remote {
        url: String,
    },
}

impl Registry {
    /// A file in a temporary folder.
    pub fn file() -> io::Result<Self> {
        let folder = Folder::create()?;
        Ok(Self::File { path: folder.0.join("endpoints.toml"), _folder: folder })
    }

    /// The registry at a source URL; a URL without a name means the service `hello`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn remote(url: &str) -> Result<Self, String> {
        let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
        let (scheme, rest) = base.split_once(':').unwrap_or((base, ""));
        if !matches!(scheme, "consul" | "consul+https" | "etcd" | "etcd+https") {
            return Err(format!(
                "--to: {url:?} is no registry in which instances announce themselves: consul://HOST:PORT or \
                 etcd://HOST:PORT is accepted"
            ));
        }
        let path = rest.strip_prefix("//").and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
        let base = base.trim_end_matches('/');
        let whole = match scheme {
            _ if !rest.starts_with("//") || !path.trim_matches('/').is_empty() => base.to_owned(),
            "etcd" | "etcd+https" => format!("{base}/services/{SERVICE}/"),
            _ => format!("{base}/{SERVICE}"),
        };
        let url = query.map_or(whole.clone(), |query| format!("{whole}?{query}"));
        config::source(&url, &Environment::Process).map_err(|problems| format!("--to: {problems}"))?;
        Ok(Self::Remote { url })
    }

    /// The source URL of the service.
    pub fn source(&self) -> String {
        match self {
            Self::File { path, .. } => format!("file://{}", path.display()),
            Self::Remote { url } => url.clone(),
        }
    }

    /// How an instance announces itself; nothing where the demo itself keeps the list.
    pub fn announcement(&self, name: &str, addr: SocketAddr) -> Result<Option<RegistrationSettings>, String> {
        let Self::Remote { url } = self else { return Ok(None) };
        let joint = if url.contains('?') { '&' } else { '?' };
        let (ip, port, ttl) = (addr.ip(), addr.port(), TTL.as_secs());
        let url = format!("{url}{joint}port={port}&address={ip}&id={name}-{port}&health=/health&ttl={ttl}s");
        let loaded = config::from_pairs(&[], &[url], Some("off"), &Environment::Process);
        let registrations = loaded.map_err(|problems| problems.to_string())?.settings.registrations;
        Ok(registrations.into_iter().next().map(|mut settings| {
            settings.check.interval = Duration::from_secs(1);
            settings.check.timeout = Duration::from_secs(1);
            settings
        }))
    }

    /// Writes the list of instances, in one step, as everybody should who writes such a file.
    pub fn list<'a>(&self, instances: impl Iterator<Item = &'a Instance>) -> Result<(), String> {
        let Self::File { path, .. } = self else { return Ok(()) };
        let mut text = String::from("endpoints = [\n");
        for instance in instances {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    {{ addr = \"{}\", id = \"{}\" }},", instance.addr, instance.name);
        }
        text.push_str("]\n");
        replace(path, &text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(&next, path)
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    fn create() -> io::Result<Self> {
        // A killed demo leaves its folder, and in a container the next one has the same process id.
        let mut turn = 0;
        loop {
            let name = format!("outrigger-demo-{}-{turn}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => turn += 1,
                Err(error) => return Err(io::Error::other(format!("{}: {error}", path.display()))),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in a temporary place.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_left_behind_is_nobodys_obstacle() {
        let (one, two) = (Folder::create().unwrap(), Folder::create().unwrap());
        let paths = [one.0.clone(), two.0.clone()];
        assert!(paths[0] != paths[1] && paths.iter().all(|path| path.is_dir()), "{paths:?}");
        drop((one, two));
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }

    #[test]
    fn a_registry_without_a_name_is_asked_for_hello() {
        for (url, source) in [
            ("consul://127.0.0.1:8500", "consul://127.0.0.1:8500/hello"),
            ("consul://127.0.0.1:8500/", "consul://127.0.0.1:8500/hello"),
            ("consul://127.0.0.1:8500/mine", "consul://127.0.0.1:8500/mine"),
            ("consul:mine", "consul:mine"),
            ("etcd://a:2379,b:2379", "etcd://a:2379,b:2379/services/hello/"),
            ("etcd://a:2379/x/mine/", "etcd://a:2379/x/mine"),
        ] {
            assert_eq!(Registry::remote(url).unwrap().source(), source, "{url}");
        }
        for bad in ["", "file:x.toml", "static://127.0.0.1:1", "consul", "nats://h", "consul://:x"] {
            let error = Registry::remote(bad).unwrap_err();
            assert!(error.starts_with("--to: "), "{bad}: {error}");
        }
    }

    #[test]
    fn an_instance_announces_itself_under_its_own_name() {
        let registry = Registry::remote("etcd://127.0.0.1:2379").unwrap();
        let addr = "127.0.0.1:4001".parse().unwrap();
        let settings = registry.announcement("hello-1", addr).unwrap().unwrap();
        assert_eq!((settings.id.as_str(), settings.port, settings.ttl), ("hello-1-4001", 4001, TTL));
        let registry = Registry::file().unwrap();
        assert_eq!(registry.announcement("hello-1", addr).unwrap(), None);
    }
}
