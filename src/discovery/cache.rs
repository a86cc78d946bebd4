//! The lists of a service's sources on disk, so that a sidecar can start while its registry is down.
//!
//! A file is a line that says what it is, with the length and CRC-32 of what follows, and then JSON. It is replaced by a
//! rename, so that readers see the old one or the new one. Whatever else is found in its place is refused.

use crate::model::{Endpoint, EndpointSet, InstanceId, ServiceName, Standing, Weight, Zone};
use crate::rt::Tasks;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What a file begins with; the number is raised when its shape changes.
const MAGIC: &str = "outrigger-snapshot 1 ";

/// A file larger than this is none of ours: 100,000 endpoints with much metadata come to less.
const LARGEST: u64 = 256 << 20;

/// A list, from whom, and when it was true.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The source's URL without secrets.
    pub url: String,
    pub as_of: SystemTime,
    pub set: EndpointSet,
}

/// The file of one service.
#[derive(Clone, Debug)]
pub struct Cache {
    file: PathBuf,
    service: ServiceName,
    max_age: Duration,
}

/// Why a file is of no use; each sentence names it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{file}: cannot be read: {error}", file = .0.display(), error = .1)]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{}: {}", .0.display(), .1)]
    Useless(PathBuf, String),
    #[error("{file}: the list of {url} is {age} old, more than {max_age} (snapshot.max_age)", file = .file.display())]
    Old {
        file: PathBuf,
        url: String,
        age: humantime::FormattedDuration,
        max_age: humantime::FormattedDuration,
    },
}

impl Cache {
    /// The file of `service` in `folder`, which is made if need be.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(folder: &Path, service: ServiceName, max_age: Duration) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let cache = Self { file: folder.join(format!("{service}.snapshot")), service, max_age };
        let trial = cache.next();
        std::fs::write(&trial, "")?;
        std::fs::remove_file(trial)?;
        Ok(cache)
    }

    /// What was kept, and what of it is refused. No file is nothing.
    pub fn load(&self, now: SystemTime) -> (Vec<Kept>, Vec<Refusal>) {
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
            Err(error) => return (Vec::new(), vec![Refusal::Unreadable(self.file.clone(), error)]),
        };
        let lists = match decode(&self.service, &bytes) {
            Ok(lists) => lists,
            Err(why) => return (Vec::new(), vec![Refusal::Useless(self.file.clone(), why)]),
        };
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for list in lists {
            // A clock that was set back makes a list seem to come from the future: it is as good as new.
            let age = now.duration_since(list.as_of).unwrap_or_default();
            if age > self.max_age {
                let seconds =
                    |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
                let (age, max_age) = (seconds(age), seconds(self.max_age));
                refused.push(Refusal::Old { file: self.file.clone(), url: list.url, age, max_age });
            } else {
                kept.push(list);
            }
        }
        (kept, refused)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        if std::fs::metadata(&self.file)?.len() > LARGEST {
            return Err(io::Error::other("it is larger than any list"));
        }
        std::fs::read(&self.file)
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// What the system says; the old file is then still there.
    pub async fn store(&self, lists: &[Kept]) -> io::Result<()> {
        let (next, bytes) = (self.next(), encode(&self.service, lists));
        let write = async {
            let mut file = tokio::fs::File::create(&next).await?;
            tokio::io::AsyncWriteExt::write_all(&mut file, &bytes).await?;
            file.sync_all().await?;
            tokio::fs::rename(&next, &self.file).await
        };
        let written = write.await;
        if written.is_err() {
            // It may not even be there.
            let _ = tokio::fs::remove_file(&next).await;
        }
        written
    }

    /// Where a new file is written before it takes the old one's place; no other process writes there.
    fn next(&self) -> PathBuf {
        self.file.with_extension(format!("{}.next", std::process::id()))
    }

    /// Writes what it is handed until nobody can hand it anything, also when the group stops: the last word counts.
    pub fn keep(self, tasks: &Tasks) -> watch::Sender<Arc<[Kept]>> {
        let (hand, mut lists) = watch::channel(Arc::default());
        tasks.spawn("snapshot", |_| async move {
            let mut failing = false;
            while lists.changed().await.is_ok() {
                let newest = Arc::clone(&lists.borrow_and_update());
                let stored = self.store(&newest).await;
                if let Err(error) = &stored
                    && !failing
                {
                    let file = self.file.display().to_string();
                    tracing::warn!(service = %self.service, file, %error, "the snapshot cannot be written");
                }
                failing = stored.is_err();
            }
        });
        hand
    }
}

/// The shape of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    service: Cow<'a, str>,
    sources: Vec<SourceShape>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SourceShape {
    url: String,
    /// Milliseconds since 1970.
    as_of: u64,
    endpoints: Vec<EndpointShape>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndpointShape {
    addr: SocketAddr,
    instance: String,
    weight: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    critical: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<String, String>,
}

fn encode(service: &ServiceName, lists: &[Kept]) -> Vec<u8> {
    let sources = lists.iter().map(|list| SourceShape {
        url: list.url.clone(),
        as_of: list
            .as_of
            .duration_since(UNIX_EPOCH)
            .map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
        endpoints: list.set.iter().map(shape).collect(),
    });
    let shape = Shape { service: Cow::Borrowed(service.as_str()), sources: sources.collect() };
    // Nothing in it can fail: the keys of its maps are texts.
    let body = serde_json::to_vec(&shape).unwrap_or_default();
    let mut bytes = format!("{MAGIC}{} {:08x}\n", body.len(), crc32fast::hash(&body)).into_bytes();
    bytes.extend(body);
    bytes
}

fn shape(endpoint: &Endpoint) -> EndpointShape {
    let (lost, critical) = match &endpoint.standing {
        Standing::Passing => (None, None),
        Standing::Lost(why) => (Some(why.to_string()), None),
        Standing::Critical(why) => (None, Some(why.to_string())),
    };
    EndpointShape {
        addr: endpoint.addr,
        instance: endpoint.instance.as_str().to_owned(),
        weight: endpoint.weight.get(),
        zone: endpoint.zone.as_ref().map(|zone| zone.as_str().to_owned()),
        lost,
        critical,
        meta: (*endpoint.meta).clone(),
    }
}

/// The lists of a file, or why it is none of ours.
fn decode(service: &ServiceName, bytes: &[u8]) -> Result<Vec<Kept>, String> {
    let foreign = || "is no snapshot of this version of Outrigger".to_owned();
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    let end = bytes.iter().take(64).position(|byte| *byte == b'\n').ok_or_else(foreign)?;
    let (head, rest) = bytes.split_at(end);
    let head =
        std::str::from_utf8(head).ok().and_then(|head| head.strip_prefix(MAGIC)).ok_or_else(foreign)?;
    let (length, sum) = head.split_once(' ').ok_or_else(foreign)?;
    let length: usize = length.parse().map_err(|_| foreign())?;
    let body = rest.get(1..).unwrap_or_default();
    if body.len() != length {
        return Err(format!("is cut off or spoilt: {} of {length} bytes are there", body.len()));
    }
    if u32::from_str_radix(sum, 16) != Ok(crc32fast::hash(body)) {
        return Err("is spoilt: its checksum is wrong".to_owned());
    }
    let shape: Shape<'_> =
        serde_json::from_slice(body).map_err(|error| format!("cannot be read: {error}"))?;
    if shape.service != service.as_str() {
        return Err(format!("is of another service, {:?}", shape.service));
    }
    let list = |source: SourceShape| Kept {
        url: source.url,
        as_of: UNIX_EPOCH.checked_add(Duration::from_millis(source.as_of)).unwrap_or(UNIX_EPOCH),
        set: source.endpoints.into_iter().map(endpoint).collect(),
    };
    Ok(shape.sources.into_iter().map(list).collect())
}

fn endpoint(shape: EndpointShape) -> Endpoint {
    let standing = match (shape.critical, shape.lost) {
        (Some(why), _) => Standing::Critical(why.into()),
        (None, Some(why)) => Standing::Lost(why.into()),
        (None, None) => Standing::Passing,
    };
    Endpoint {
        addr: shape.addr,
        instance: InstanceId::new(shape.instance),
        weight: Weight::new(shape.weight),
        zone: shape.zone.as_deref().and_then(Zone::new),
        standing,
        meta: shape.meta.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn lists() -> Vec<Kept> {
        let plain = Endpoint::at("127.0.0.1:1".parse().unwrap());
        let rich = Endpoint {
            instance: InstanceId::new("web/\"2\"\n"),
            weight: Weight::new(7),
            zone: Zone::new("eu-1"),
            standing: Standing::Critical("maintenance".into()),
            meta: BTreeMap::from([("version".to_owned(), "ü".to_owned())]).into(),
            ..Endpoint::at("[::1]:2".parse().unwrap())
        };
        let lost = Endpoint {
            standing: Standing::Lost("serfHealth".into()),
            ..Endpoint::at(([10, 0, 0, 1], 3).into())
        };
        let url = |name: &str| format!("consul://127.0.0.1:8500/{name}");
        vec![
            Kept { url: url("web"), as_of: at(1_000), set: [plain, rich].into_iter().collect() },
            Kept { url: url("web2"), as_of: at(2_000), set: [lost].into_iter().collect() },
        ]
    }

    fn cache(folder: &Path) -> Cache {
        Cache::open(folder, ServiceName::new("web").unwrap(), Duration::from_secs(3_600)).unwrap()
    }

    fn refused(cache: &Cache, now: SystemTime) -> Vec<String> {
        cache.load(now).1.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn what_was_stored_is_loaded_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder.path().join("new"));
        assert_eq!(cache.load(at(0)).0, []);
        assert!(refused(&cache, at(0)).is_empty(), "no file is no fault");
        for lists in [&lists()[..1], &lists()] {
            cache.store(lists).await.unwrap();
            assert_eq!(cache.load(at(2_100)).0, lists);
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        assert_eq!(cache.load(at(0)).0.len(), 2, "a clock that was set back spoils nothing");
    }

    #[tokio::test]
    async fn each_list_has_an_age_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.store(&lists()).await.unwrap();
        let (kept, refused) = cache.load(at(4_601));
        assert_eq!(kept, lists()[1..]);
        let said = refused[0].to_string();
        assert!(
            refused.len() == 1 && said.contains("/web is 1h 1s old, more than 1h (snapshot.max_age)"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn what_is_no_whole_file_of_this_service_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.store(&lists()).await.unwrap();
        let whole = std::fs::read(&cache.file).unwrap();
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            bytes
        };
        let other = encode(&ServiceName::new("other").unwrap(), &lists());
        let cases: [(Vec<u8>, &str); 8] = [
            (Vec::new(), "is empty"),
            (with(|b| b.truncate(b.len() / 2)), "is cut off or spoilt"),
            (with(|b| b.truncate(5)), "is no snapshot"),
            (with(|b| *b.last_mut().unwrap() ^= 1), "its checksum is wrong"),
            (with(|b| b[19] = b'9'), "is no snapshot"),
            (vec![0; 100_000], "is no snapshot"),
            (b"{\"endpoints\": []}\n".to_vec(), "is no snapshot"),
            (other, "is of another service, \"other\""),
        ];
        for (bytes, part) in cases {
            std::fs::write(&cache.file, &bytes).unwrap();
            let said = refused(&cache, at(2_100));
            assert_eq!(cache.load(at(2_100)).0, []);
            assert!(
                said.len() == 1 && said[0].contains(part) && said[0].contains("web.snapshot"),
                "{said:?}"
            );
        }
        std::fs::remove_file(&cache.file).unwrap();
        std::fs::create_dir(&cache.file).unwrap();
        assert!(refused(&cache, at(0))[0].contains("cannot be read"));
        assert!(cache.store(&lists()).await.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of a failed write");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_reason_to_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), cut in 0_usize..2_000) {
            let service = ServiceName::new("web").unwrap();
            assert!(decode(&service, &bytes).is_err());
            let whole = encode(&service, &lists());
            let part = &whole[..cut.min(whole.len())];
            assert_eq!(decode(&service, part).is_ok(), part.len() == whole.len());
        }
    }
}
