//! Other programs: started on a CPU, measured through /proc, ended with us whatever happens.

use crate::Outcome;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::CpuSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the proxies run, and where everything else does.
pub const PROXY_CPU: usize = 0;
pub const LOAD_CPU: usize = 1;

/// A program with all its processes. Dropping it ends them.
pub struct Running {
    child: Child,
    pids: Vec<u32>,
}

/// Pins this process; what it starts from now on starts there.
pub fn pin(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Allows as many open files as the system lets us, here and in what is started from now on.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|n| n.trim().parse().ok());
    // Only the mighty may go beyond the hard limit.
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).is_err() {
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// How many files a process may have open.
pub fn file_limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

impl Running {
    /// Starts a program on a CPU, such that the kernel ends it when we are gone.
    pub fn start(cpu: usize, command: &[&str], log: &Path) -> Outcome<Self> {
        let mut whole = vec!["setpriv", "--pdeathsig", "TERM", "--"];
        whole.extend(command);
        Self::start_bare(cpu, &whole, log)
    }

    /// Starts a program with nothing in between.
    pub fn start_bare(cpu: usize, command: &[&str], log: &Path) -> Outcome<Self> {
        let Some((program, arguments)) = command.split_first() else { return Err("no command".into()) };
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        pin(cpu)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"));
        pin(LOAD_CPU)?;
        let child = child?;
        let pids = vec![child.id()];
        Ok(Self { child, pids })
    }

    /// Learns which processes it has, once it serves.
    pub fn settle(&mut self) -> Outcome<()> {
        self.pids = vec![self.child.id()];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if parent(pid) == Some(self.child.id()) {
                self.pids.push(pid);
            }
        }
        Ok(())
    }

    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time of all its threads so far, in nanoseconds.
    pub fn cpu(&self, clock: Clock) -> Outcome<u64> {
        self.pids.iter().map(|pid| clock.read(*pid)).sum()
    }

    /// CPU time of each thread of the main process, by name.
    pub fn threads(&self) -> Outcome<Vec<(String, u64)>> {
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?.trim().to_owned();
            threads.push((name, first_number(&task.join("schedstat"))?));
        }
        threads.sort();
        Ok(threads)
    }

    /// Resident memory of all its processes in KiB: as a sum, and with shared pages divided among those who share them.
    pub fn resident(&self) -> Outcome<(u64, u64)> {
        let (mut whole, mut share) = (0, 0);
        for pid in &self.pids {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let field = |name: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
            };
            whole += field("Rss:");
            share += field("Pss:");
        }
        Ok((whole, share))
    }

    pub fn end(&mut self) {
        for (signal, patience) in
            [(Signal::TERM, Duration::from_secs(2)), (Signal::KILL, Duration::from_secs(2))]
        {
            for pid in &self.pids {
                if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw)
                    && signal != Signal::TERM
                {
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
            if let Ok(pid) = i32::try_from(self.child.id())
                && let Some(pid) = Pid::from_raw(pid)
                && self.alive()
            {
                let _ = rustix::process::kill_process(pid, signal);
            }
            let begun = Instant::now();
            while begun.elapsed() < patience {
                if !self.alive() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Which clock of the kernel counts CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// /proc/PID/task/*/schedstat: nanoseconds.
    Nanoseconds,
    /// /proc/PID/stat: ticks.
    Ticks,
}

impl Clock {
    /// The finer one, if the kernel has it and it moves.
    pub fn choose() -> Self {
        let own = std::process::id();
        let (before, begun) = (Self::Nanoseconds.read(own), Instant::now());
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        std::thread::yield_now();
        match (before, Self::Nanoseconds.read(own)) {
            (Ok(before), Ok(after)) if after > before => Self::Nanoseconds,
            _ => Self::Ticks,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Nanoseconds => "/proc/PID/task/*/schedstat (nanoseconds)",
            Self::Ticks => "/proc/PID/stat (ticks: coarse)",
        }
    }

    fn read(self, pid: u32) -> Outcome<u64> {
        match self {
            Self::Nanoseconds => fs::read_dir(format!("/proc/{pid}/task"))?
                .map(|task| first_number(&task?.path().join("schedstat")))
                .sum(),
            Self::Ticks => {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
                let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
                let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
                Ok(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
            }
        }
    }
}

fn first_number(path: &Path) -> Outcome<u64> {
    let text = fs::read_to_string(path)?;
    text.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| format!("{}: no number", path.display()).into())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
