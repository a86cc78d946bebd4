//! The app as a child process, and the signals that come for it.

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, kill_process, setrlimit, waitpid,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use tokio::signal::unix::{self, SignalKind, signal};

/// The running app.
#[derive(Debug)]
pub(super) struct Child {
    child: tokio::process::Child,
    pid: Option<Pid>,
}

/// What can be done to it from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(Option<Pid>);

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended(Option<ExitStatus>);

/// What there is to do.
#[derive(Debug)]
pub(super) enum Urge {
    /// The app has ended.
    Ended(Ended),
    /// Tell the app, and nothing else.
    Pass(i32),
    /// The end is wanted, by this signal.
    End(i32),
}

impl Child {
    /// Starts it in this process' place as far as files and terminal are concerned.
    ///
    /// # Errors
    /// The exit code by the shells' convention (127 not found, 126 cannot be run), and why.
    pub(super) fn start(
        command: &[OsString],
        variables: &BTreeMap<String, String>,
        files: OpenFiles,
    ) -> Result<Self, (u8, String)> {
        let Some((program, arguments)) = command.split_first() else {
            return Err((127, "no app was named".to_owned()));
        };
        let started =
            files.during(|| tokio::process::Command::new(program).args(arguments).envs(variables).spawn());
        let child = started.map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            (code, format!("the app cannot be started: {}: {error}", program.display()))
        })?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, pid })
    }

    /// Cancel-safe.
    pub(super) async fn ended(&mut self) -> Ended {
        Ended(self.child.wait().await.ok())
    }

    pub(super) fn process(&self) -> Process {
        Process(self.pid)
    }
}

/// The limit of open files that we were started with; ours is raised, the app's is not.
#[derive(Clone, Debug)]
pub(super) struct OpenFiles(Rlimit);

impl OpenFiles {
    pub(super) fn now() -> Self {
        Self(getrlimit(Resource::Nofile))
    }

    /// Does something under that limit.
    fn during<T>(self, act: impl FnOnce() -> T) -> T {
        let raised = getrlimit(Resource::Nofile);
        // What is open stays open; a system that refuses leaves the app with ours.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: self.0.current, ..raised });
        let done = act();
        let _ = setrlimit(Resource::Nofile, raised);
        done
    }
}

impl Process {
    pub(super) fn signal(self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            self.tell(signal);
        }
    }

    pub(super) fn kill(self) {
        self.tell(Signal::KILL);
    }

    fn tell(self, signal: Signal) {
        if let Some(pid) = self.0 {
            // One that has just ended needs no signal any more.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Ended {
    /// The number of SIGKILL.
    pub(super) const KILL: i32 = Signal::KILL.as_raw();

    /// The app's own exit code, or 128 and the number of the signal that ended it.
    pub(super) fn code(self) -> u8 {
        let status = self.0.and_then(|status| status.code().or(status.signal().map(|number| 128 + number)));
        status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

/// The signals that are for the app.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    /// Passed on as they are.
    others: Vec<(i32, unix::Signal)>,
    child: unix::Signal,
    /// A terminal sends its signals to the app as well as to us: it needs no second one.
    terminal: bool,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let passed = [
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
        ];
        let others = passed.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?)));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            others: others.collect::<io::Result<_>>()?,
            child: signal(SignalKind::child())?,
            terminal: io::stdin().is_terminal(),
        })
    }

    /// Waits for one that ends the process; its number.
    pub(super) async fn end(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }

    /// The app has had this one already, from the terminal.
    pub(super) fn came_by_terminal(&self, number: i32) -> bool {
        self.terminal && number == SignalKind::interrupt().as_raw_value()
    }

    pub(super) async fn next(&mut self, child: &mut Child) -> Urge {
        loop {
            let passed = futures_util::future::select_all(self.others.iter_mut().map(|(number, signal)| {
                Box::pin(async move {
                    signal.recv().await;
                    *number
                })
            }));
            tokio::select! {
                ended = child.ended() => return Urge::Ended(ended),
                _ = self.terminate.recv() => return Urge::End(SignalKind::terminate().as_raw_value()),
                _ = self.interrupt.recv() => return Urge::End(SignalKind::interrupt().as_raw_value()),
                (number, ..) = passed => {
                    let by_terminal = number == SignalKind::quit().as_raw_value()
                        || number == SignalKind::hangup().as_raw_value()
                        || number == SignalKind::window_change().as_raw_value();
                    if !(self.terminal && by_terminal) {
                        return Urge::Pass(number);
                    }
                }
                _ = self.child.recv() => reap(child.pid),
            }
        }
    }
}

/// The first process of a container inherits the children of those that ended before them: it has to bury the dead.
fn reap(own: Option<Pid>) {
    if getpid() != Pid::INIT {
        return;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // The name in brackets may hold anything; state and parent follow it (proc(5)).
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let is_ours = fields.next() == Some("Z") && fields.next() == Some("1");
        let number = process.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw)
            && is_ours
            && Some(pid) != own
        {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
