//! Instances from etcd: a list at one revision, then the watch that continues it.

use super::etcd_keys::{Keys, Mark};
use super::{Answer, Discover, DiscoverError, EtcdQuery, Trust};
use crate::model::EndpointSet;
use crate::registry::etcd::{
    EtcdClient, EtcdError, EtcdSettings, RangeRequest, Update, Watch, WatchRange, prefix_end,
};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Keys in one answer to a list.
const PAGE: i64 = 1000;
/// Updates that are taken in before one answer, however fast they come.
const DRAIN: usize = 1000;
/// Keys that were gone after a break in the history are missed for this long, longer than any default grace of the
/// keeper; after that their absence is the truth.
const DOUBT_LASTS: Duration = Duration::from_secs(60);
/// No change waits longer than this for others that belong to it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The instances under one prefix.
///
/// After an error the watch resumes where it was, at whichever member answers, once that member has shown that it
/// knows the same history; only if it does not, or has compacted it, everything is listed again.
#[derive(Debug)]
pub struct Etcd {
    client: EtcdClient,
    query: EtcdQuery,
    /// What the prefix holds; `None` until the first list.
    keys: Option<Keys>,
    watch: Option<Watch>,
    untold: Option<Untold>,
    /// The watch ended after its last update was answered.
    ended: Option<EtcdError>,
    /// A list is due although the keys are known.
    relist: Option<Reason>,
    doubt: Option<Doubt>,
}

/// Changes that are taken in and not yet answered.
#[derive(Clone, Copy, Debug)]
struct Untold {
    since: Instant,
    /// When they are answered, whatever else may come.
    due: Instant,
}

/// Why everything is listed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Somebody asked, while the watch stood.
    Asked,
    /// There is nothing by which a history could be recognized.
    Broken,
    Compacted,
    HistoryLost,
}

/// A list that may be the registry's loss of memory.
#[derive(Debug)]
struct Doubt {
    why: &'static str,
    /// Known before, and not in the list.
    missing: BTreeSet<Vec<u8>>,
    /// When it was first told.
    since: Option<Instant>,
}

impl Etcd {
    pub fn new(settings: EtcdSettings, query: EtcdQuery) -> Self {
        Self {
            client: EtcdClient::new(settings),
            query,
            keys: None,
            watch: None,
            untold: None,
            ended: None,
            relist: None,
            doubt: None,
        }
    }

    /// The member in use, or the next to be tried.
    pub fn member(&self) -> String {
        self.client.member()
    }

    /// Waits until there is something to answer.
    async fn advance(&mut self) -> Result<(), EtcdError> {
        if self.watch.is_some() {
            match self.changed().await {
                Err(EtcdError::Compacted(_)) => {
                    self.watch = None;
                    self.relist = Some(Reason::Compacted);
                }
                other => return other,
            }
        }
        self.open().await
    }

    /// Waits for a change, and takes in all that has arrived with it or belongs to it.
    async fn changed(&mut self) -> Result<(), EtcdError> {
        let (Some(keys), Some(watch)) = (&mut self.keys, &mut self.watch) else { return Ok(()) };
        if let Some(ended) = self.ended.take() {
            return self.client.heed(Err(ended));
        }
        let mut taken = 0;
        while taken < DRAIN {
            let update = match self.untold {
                None => watch.next().await,
                // What is there already is taken in also when it is due.
                Some(Untold { due, .. }) => match tokio::time::timeout_at(due, watch.next()).await {
                    Ok(update) => update,
                    Err(_) => break,
                },
            };
            match update {
                Ok(update) => {
                    let now = Instant::now();
                    if take(keys, update, now) {
                        taken += 1;
                        let since = self.untold.map_or(now, |untold| untold.since);
                        let due = (now + keys.patience(now)).min(since + PATIENCE);
                        self.untold = Some(Untold { since, due });
                    }
                }
                // What came before it is answered first.
                Err(error) if self.untold.is_some() => {
                    self.ended = Some(error);
                    break;
                }
                Err(error) => return self.client.heed(Err(error)),
            }
        }
        self.untold = None;
        Ok(())
    }

    /// Makes the watch stand: behind what is known if it can be resumed, else behind a new list.
    async fn open(&mut self) -> Result<(), EtcdError> {
        if !self.can_resume().await? {
            self.list().await?;
        }
        let Some(keys) = &self.keys else { return Ok(()) };
        let range = WatchRange {
            prefix: self.query.prefix.clone().into_bytes(),
            start: keys.revision() + 1,
            silence: self.query.silence,
            progress_timeout: self.query.progress_timeout,
        };
        let watch = self.client.watch(range).await?;
        if watch.created_revision() < keys.revision() {
            self.relist = Some(Reason::HistoryLost);
            let (now, then) = (watch.created_revision(), keys.revision());
            return Err(EtcdError::Unavailable(format!(
                "{}: went back from revision {then} to {now}",
                self.client.member()
            )));
        }
        self.watch = Some(watch);
        Ok(())
    }

    /// Whether the member knows the key that changed last as it is known here. Its revision number alone proves
    /// nothing: a cluster that lost its data soon has numbers as high again, under the same cluster id.
    async fn can_resume(&mut self) -> Result<bool, EtcdError> {
        let Some(keys) = &self.keys else { return Ok(false) };
        if self.relist.is_some() {
            return Ok(false);
        }
        let Some((key, mark)) = keys.newest() else {
            self.relist = Some(Reason::Broken);
            return Ok(false);
        };
        let request =
            RangeRequest { key: key.to_vec(), revision: keys.revision(), ..RangeRequest::default() };
        self.relist = match self.client.range(request).await {
            Ok(answer) => {
                let cluster = answer.header.as_ref().map(|header| header.cluster_id);
                let same = answer.kvs.first().map(Mark::of) == Some(mark) && cluster == Some(keys.cluster());
                (!same).then_some(Reason::HistoryLost)
            }
            Err(EtcdError::Future(_)) => Some(Reason::HistoryLost),
            Err(EtcdError::Compacted(_)) => Some(Reason::Compacted),
            Err(error) => return Err(error),
        };
        Ok(self.relist.is_none())
    }

    /// Reads everything at one revision, in pages, and puts it in place of what was known.
    async fn list(&mut self) -> Result<(), EtcdError> {
        let end = prefix_end(self.query.prefix.as_bytes());
        let mut from = self.query.prefix.clone().into_bytes();
        let mut fresh: Option<Keys> = None;
        loop {
            let revision = fresh.as_ref().map_or(0, Keys::revision);
            let request = RangeRequest { key: from.clone(), range_end: end.clone(), limit: PAGE, revision };
            let page = self.client.range(request).await?;
            let keys = fresh.get_or_insert_with(|| {
                let header = page.header.unwrap_or_default();
                Keys::new(header.cluster_id, header.revision)
            });
            match page.kvs.last() {
                // The smallest key behind this one.
                Some(last) => from = [last.key.as_slice(), b"\0"].concat(),
                None => break,
            }
            page.kvs.into_iter().for_each(|kv| keys.put(kv));
            if !page.more {
                break;
            }
        }
        if let Some(fresh) = fresh {
            self.replace(fresh);
        }
        Ok(())
    }

    fn replace(&mut self, mut fresh: Keys) {
        let reason = self.relist.take();
        if let Some(old) = &self.keys {
            let back = fresh.cluster() != old.cluster() || fresh.revision() < old.revision();
            let why = match reason {
                Some(Reason::HistoryLost) => Some("etcd does not know the history that was known before"),
                _ if back => Some("etcd's revision went back"),
                Some(Reason::Compacted) => Some("listed again: the changes meanwhile were compacted"),
                Some(Reason::Broken) => Some("listed again after an error"),
                Some(Reason::Asked) | None => None,
            };
            let lost = back || reason == Some(Reason::HistoryLost);
            let missing: Vec<_> = match why {
                Some(_) => old.missing_in(&fresh).cloned().collect(),
                None => Vec::new(),
            };
            if why.is_none() {
                fresh.succeed(old, Instant::now());
            }
            if let Some(why) = why
                && (lost || !missing.is_empty())
            {
                let before = self.doubt.take().map(|doubt| doubt.missing).unwrap_or_default();
                let missing = before.into_iter().chain(missing).collect();
                self.doubt = Some(Doubt { why, missing, since: None });
            }
        }
        self.keys = Some(fresh);
    }

    fn answer(&mut self) -> Answer {
        let Some(keys) = &mut self.keys else { return Answer::default() };
        let now = Instant::now();
        self.doubt.take_if(|doubt| doubt.since.is_some_and(|since| now - since >= DOUBT_LASTS));
        let trust = match &mut self.doubt {
            Some(doubt) => {
                doubt.since.get_or_insert(now);
                doubt.missing.retain(|key| !keys.has(key));
                Trust::Doubtful(doubt.why)
            }
            None if keys.lost_many_leases(now) => Trust::Unmeant("many leases ran out together"),
            None => Trust::Trusted,
        };
        self.doubt.take_if(|doubt| doubt.missing.is_empty());
        Answer {
            set: keys.endpoints(),
            skipped: keys.skipped(),
            trust,
            position: u64::try_from(keys.revision()).ok(),
            hint: None,
        }
    }

    fn tell(&self, error: EtcdError) -> DiscoverError {
        match error {
            EtcdError::Refused(text) if text.contains("permission denied") => {
                DiscoverError::Refused(format!("{text}: the user may not read {}", self.query.prefix))
            }
            EtcdError::Refused(text) => DiscoverError::Refused(text),
            other => DiscoverError::Failed(other.to_string()),
        }
    }
}

/// Folds an update in; `true` if it may have changed something.
fn take(keys: &mut Keys, update: Update, now: Instant) -> bool {
    match update {
        Update::Changed(events) => {
            keys.fold(events, now);
            true
        }
        Update::Progress(revision) => {
            keys.progress(revision);
            false
        }
    }
}

impl Discover for Etcd {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        match self.advance().await {
            Ok(()) => Ok(self.answer()),
            Err(error) => {
                self.watch = None;
                match error {
                    EtcdError::Compacted(_) => self.relist = Some(Reason::Compacted),
                    // An error in between takes the innocence from a list that was only asked for.
                    _ if self.relist == Some(Reason::Asked) => self.relist = Some(Reason::Broken),
                    _ => {}
                }
                Err(self.tell(error))
            }
        }
    }

    async fn mended(&mut self) {
        self.client.mended().await;
    }

    fn rewind(&mut self) {
        let whole = self.watch.is_some() && self.ended.is_none();
        self.relist.get_or_insert(if whole { Reason::Asked } else { Reason::Broken });
        self.watch = None;
        self.untold = None;
        self.ended = None;
    }

    /// Building an answer costs time in proportion to its size; single changes of small sets are told at once.
    fn pace(&self, last: Option<&EndpointSet>) -> Duration {
        let endpoints = last.map_or(0, |set| u64::try_from(set.len()).unwrap_or(u64::MAX));
        Duration::from_millis((10 + endpoints / 100).min(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::etcd::KeyValue;

    fn keys(cluster: u64, revision: i64, ports: &[u16]) -> Keys {
        let mut keys = Keys::new(cluster, revision);
        for port in ports {
            let text = format!("127.0.0.1:{port}");
            keys.put(KeyValue { key: text.clone().into(), value: text.into(), ..KeyValue::default() });
        }
        keys
    }

    fn known(ports: &[u16]) -> Etcd {
        let mut etcd = Etcd::new(EtcdSettings::new(Vec::new()), EtcdQuery::new("svc/web"));
        etcd.replace(keys(1, 10, ports));
        assert_eq!(etcd.answer().trust, Trust::Trusted, "the first list");
        etcd
    }

    fn relisted(reason: Reason, fresh: Keys) -> Etcd {
        let mut etcd = known(&[1, 2]);
        etcd.relist = Some(reason);
        etcd.replace(fresh);
        etcd
    }

    #[test]
    fn a_list_after_a_break_is_doubtful_only_if_keys_are_missing() {
        for reason in [Reason::Broken, Reason::Compacted] {
            assert_eq!(relisted(reason, keys(1, 11, &[1, 2, 3])).answer().trust, Trust::Trusted);
            assert!(matches!(relisted(reason, keys(1, 11, &[1, 3])).answer().trust, Trust::Doubtful(_)));
        }
        assert_eq!(relisted(Reason::Asked, keys(1, 11, &[])).answer().trust, Trust::Trusted);
    }

    #[test]
    fn lost_history_is_doubtful_whatever_the_list_says() {
        for (reason, fresh) in [
            (Reason::HistoryLost, keys(1, 11, &[1, 2])),
            (Reason::Asked, keys(1, 9, &[1, 2])),
            (Reason::Asked, keys(2, 11, &[1, 2])),
        ] {
            let mut etcd = relisted(reason, fresh);
            assert!(matches!(etcd.answer().trust, Trust::Doubtful(_)));
            assert_eq!(etcd.answer().trust, Trust::Trusted, "nothing is missing");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_lasts_until_the_missing_are_back_or_long_gone() {
        let mut etcd = relisted(Reason::HistoryLost, keys(1, 3, &[]));
        for _ in 0..3 {
            assert!(matches!(etcd.answer().trust, Trust::Doubtful(_)));
            etcd.relist = Some(Reason::Asked);
            etcd.replace(keys(1, 4, &[1]));
        }
        etcd.replace(keys(1, 5, &[1, 2]));
        etcd.answer();
        assert_eq!(etcd.answer().trust, Trust::Trusted, "all are back");

        let mut etcd = relisted(Reason::HistoryLost, keys(1, 3, &[1]));
        etcd.answer();
        tokio::time::advance(DOUBT_LASTS).await;
        assert_eq!(etcd.answer().trust, Trust::Trusted, "long gone");
    }
}
