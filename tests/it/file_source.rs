//! Endpoint files as people and machines change them, watched through the one loop.

use crate::support::eventually;
use outrigger::discovery::file::File;
use outrigger::discovery::{Feed, FileQuery, Link, WatchSettings, watch};
use outrigger::model::ServiceName;
use outrigger::rt::Tasks;
use outrigger::telemetry::{Events, Kind};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(20);

/// A file in a folder of its own, and a running watch on it.
struct Watched {
    folder: TempDir,
    path: PathBuf,
    tasks: Tasks,
    feed: Feed,
}

/// Starts to watch `name` after `prepare` has filled the folder.
fn watched(name: &str, service: &str, prepare: impl FnOnce(&Path)) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let path = folder.path().join(name);
    let tasks = Tasks::new(Events::default());
    let query = FileQuery { path: path.clone(), service: service.into() };
    let feed = watch(
        &tasks,
        ServiceName::new(service).unwrap(),
        format!("file:{name}"),
        File::new(query),
        WatchSettings::default(),
        SmallRng::seed_from_u64(1),
    );
    Watched { folder, path, tasks, feed }
}

fn listing(ports: &[u16]) -> String {
    let entries: Vec<_> = ports.iter().map(|port| format!("  \"127.0.0.1:{port}\",\n")).collect();
    format!("endpoints = [\n{}]\n", entries.concat())
}

impl Watched {
    fn ports(&self) -> Option<Vec<u16>> {
        self.feed.answers.borrow().as_ref().map(|answer| answer.set.iter().map(|e| e.addr.port()).collect())
    }

    async fn sees(&self, what: &str, ports: &[u16]) {
        eventually(what, LIMIT, async || (self.ports().as_deref() == Some(ports)).then_some(())).await;
    }

    fn link(&self) -> Link {
        self.feed.status.view(Instant::now()).link
    }

    async fn fails(&self, what: &str) -> String {
        eventually(what, LIMIT, async || {
            let view = self.feed.status.view(Instant::now());
            (view.link != Link::Live).then_some(view.last_error).flatten()
        })
        .await
        .to_string()
    }

    /// Renames a complete file over the path, as careful writers do.
    fn replace(&self, text: &str) {
        let new = self.folder.path().join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    fn count(&self, kind: Kind) -> u64 {
        self.tasks.events().counts().find(|(k, _)| *k == kind).unwrap().1
    }
}

#[tokio::test]
async fn an_edit_in_place_is_seen() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1])).unwrap());
    file.sees("the first list", &[1]).await;
    fs::write(&file.path, listing(&[1, 2])).unwrap();
    file.sees("one more", &[1, 2]).await;
    fs::write(&file.path, listing(&[])).unwrap();
    file.sees("a list that is empty on purpose", &[]).await;
}

#[tokio::test]
async fn the_moment_between_truncation_and_writing_is_waited_out() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[100])).unwrap());
    file.sees("the first list", &[100]).await;
    for port in 1..=10 {
        fs::write(&file.path, "").unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        fs::write(&file.path, listing(&[port])).unwrap();
        file.sees("the rewritten file", &[port]).await;
    }
    // On a busy machine a moment may become a long one; but not each.
    assert!(file.count(Kind::SourceFailing) <= 5, "{:?}", file.tasks.events().recent());
}

#[tokio::test]
async fn files_renamed_over_it_are_seen_at_once() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1])).unwrap());
    file.sees("the first list", &[1]).await;
    let start = Instant::now();
    for port in 2..=11 {
        file.replace(&listing(&[port]));
        file.sees("the new file", &[port]).await;
    }
    // Ten polls would take twenty seconds.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_symlink_swapped_as_kubernetes_does_is_seen_at_once() {
    let release = |at: &Path, name: &str, ports: &[u16]| {
        fs::create_dir(at.join(name)).unwrap();
        fs::write(at.join(name).join("web.toml"), listing(ports)).unwrap();
        symlink(name, at.join("..data_tmp")).unwrap();
        fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    };
    let file = watched("web.toml", "web", |at| {
        release(at, "..0", &[100]);
        symlink("..data/web.toml", at.join("web.toml")).unwrap();
    });
    file.sees("the first release", &[100]).await;
    let start = Instant::now();
    for port in 1..=8 {
        release(file.folder.path(), &format!("..{port}"), &[port]);
        fs::remove_dir_all(file.folder.path().join(format!("..{}", port - 1))).unwrap();
        file.sees("the new release", &[port]).await;
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_deleted_file_keeps_its_endpoints_until_it_is_there_again() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1, 2])).unwrap());
    file.sees("the first list", &[1, 2]).await;
    fs::remove_file(&file.path).unwrap();
    let error = file.fails("the missing file").await;
    assert!(error.contains("web.toml") && error.contains("No such file"), "{error}");
    assert_eq!(file.ports(), Some(vec![1, 2]), "invariant 3: an error is not an empty set");
    assert_eq!(file.link(), Link::Stale);

    fs::write(&file.path, listing(&[1, 2])).unwrap();
    eventually("the same file again", LIMIT, async || (file.link() == Link::Live).then_some(())).await;
    assert_eq!((file.count(Kind::SourceFailing), file.count(Kind::SourceRecovered)), (1, 1));
    fs::remove_file(&file.path).unwrap();
    file.fails("the file missing once more").await;
    fs::write(&file.path, listing(&[3])).unwrap();
    file.sees("another file", &[3]).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_found_when_it_comes() {
    let file = watched("later/web.toml", "web", |_| {});
    file.fails("the missing folder").await;
    assert_eq!((file.link(), file.ports()), (Link::Error, None));
    fs::create_dir(file.folder.path().join("later")).unwrap();
    fs::write(&file.path, listing(&[7])).unwrap();
    file.sees("the new file", &[7]).await;
}

#[tokio::test]
async fn a_half_written_file_changes_nothing_and_its_other_half_is_seen_without_a_back_off() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1, 2, 3])).unwrap());
    file.sees("the first list", &[1, 2, 3]).await;
    let whole = listing(&[4, 5, 6]);
    let (half, _) = whole.split_at(whole.len() / 2);
    let start = Instant::now();
    let errors = |file: &Watched| file.feed.status.view(Instant::now()).errors;
    for round in 0..8 {
        let before = errors(&file);
        fs::write(&file.path, format!("{half} # {round}")).unwrap();
        eventually("an error", LIMIT, async || (errors(&file) > before).then_some(())).await;
        assert_eq!(file.ports(), Some(if round == 0 { vec![1, 2, 3] } else { vec![4, 5, 6] }));
        fs::write(&file.path, &whole).unwrap();
        eventually("the whole file", LIMIT, async || {
            (file.link() == Link::Live && file.ports() == Some(vec![4, 5, 6])).then_some(())
        })
        .await;
    }
    assert!(start.elapsed() < Duration::from_secs(14), "{:?}", start.elapsed());
    let view = file.feed.status.view(Instant::now());
    assert!(view.last_error.as_deref().unwrap().contains("web.toml: line "), "{:?}", view.last_error);
}

#[tokio::test]
async fn a_broken_file_is_not_read_in_circles() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), "endpoints = [").unwrap());
    file.fails("the broken file").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let view = file.feed.status.view(Instant::now());
    assert!(view.questions <= 3 && view.errors <= 2, "{view:?}");
    file.replace(&listing(&[9]));
    file.sees("the mended file", &[9]).await;
}

#[tokio::test]
async fn an_empty_file_is_no_empty_list() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1])).unwrap());
    file.sees("the first list", &[1]).await;
    fs::write(&file.path, "").unwrap();
    let error = file.fails("the truncated file").await;
    assert!(error.ends_with("no list `endpoints`"), "{error}");
    assert_eq!(file.ports(), Some(vec![1]));
}

#[tokio::test]
async fn a_bad_entry_harms_nobody_but_itself_and_is_told() {
    let text =
        "endpoints = [\n  '127.0.0.1:1',\n  'db.internal:5432',\n  { addr = 'localhost:2', weight = 7 },\n]";
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), text).unwrap());
    file.sees("the good ones", &[1, 2]).await;
    let answer = file.feed.answers.borrow().clone().unwrap();
    assert_eq!(answer.set[1].weight.get(), 7);
    assert_eq!(answer.skipped[0].entry, "endpoints[1], line 3");
    let events = file.tasks.events().recent();
    let told = events.iter().find(|event| event.kind == Kind::EntrySkipped).unwrap();
    assert!(told.detail.contains("line 3") && told.detail.contains("db.internal:5432"), "{}", told.detail);
}

#[tokio::test]
async fn one_file_serves_many_services_by_name() {
    let text = "[services.web]\nendpoints = ['127.0.0.1:1']\n[services.api]\nendpoints = ['127.0.0.1:2']";
    let file = watched("all.toml", "api", |at| fs::write(at.join("all.toml"), text).unwrap());
    file.sees("its own", &[2]).await;
    file.replace("[services.web]\nendpoints = ['127.0.0.1:1']");
    let error = file.fails("the missing name").await;
    assert!(error.ends_with("no service \"api\" (in this file: web)"), "{error}");
    assert_eq!(file.ports(), Some(vec![2]));
}

#[tokio::test]
async fn json_is_read_alike() {
    let text = r#"["127.0.0.1:1", {"addr": "127.0.0.1:2", "weight": 3}]"#;
    let file = watched("web.json", "web", |at| fs::write(at.join("web.json"), text).unwrap());
    file.sees("the bare list", &[1, 2]).await;
    file.replace(r#"{"services": {"web": {"endpoints": ["127.0.0.1:3"]}}}"#);
    file.sees("the services table", &[3]).await;
    file.replace(r#"["127.0.0.1:1", {"#);
    let error = file.fails("the torn file").await;
    assert!(error.contains("web.json: line 1, column "), "{error}");
}

#[tokio::test]
async fn a_replaced_folder_is_found_by_polling_and_watched_from_then_on() {
    let file = watched("here/web.toml", "web", |at| {
        fs::create_dir(at.join("here")).unwrap();
        fs::write(at.join("here/web.toml"), listing(&[1])).unwrap();
    });
    file.sees("the first list", &[1]).await;
    let (here, there) = (file.folder.path().join("here"), file.folder.path().join("there"));
    fs::create_dir(&there).unwrap();
    fs::write(there.join("web.toml"), listing(&[2])).unwrap();
    fs::rename(&here, file.folder.path().join("gone")).unwrap();
    fs::rename(&there, &here).unwrap();
    file.sees("the new folder", &[2]).await;
    let start = Instant::now();
    for port in 3..=10 {
        file.replace(&listing(&[port]));
        file.sees("a file in the new folder", &[port]).await;
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_nudge_reads_the_file_again() {
    let file = watched("web.toml", "web", |at| fs::write(at.join("web.toml"), listing(&[1])).unwrap());
    file.sees("the first list", &[1]).await;
    let questions = |file: &Watched| file.feed.status.view(Instant::now()).questions;
    let before = questions(&file);
    file.feed.nudge();
    eventually("two more questions", LIMIT, async || (questions(&file) >= before + 2).then_some(())).await;
    assert_eq!(file.ports(), Some(vec![1]));
    assert!(file.tasks.stop(Duration::from_secs(5)).await, "the watch ends when it is told to");
}
