//! The release binary under callgrind, as shipped, with one worker; and its counters.

use crate::Outcome;
use crate::mixes::{Mix, Speaks};
use crate::tls;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A running sidecar; killed when dropped.
pub struct Sidecar {
    child: Child,
    folder: PathBuf,
    dumps: usize,
    pub listeners: Vec<SocketAddr>,
}

impl Sidecar {
    /// Starts it, and waits until it listens.
    pub fn start(binary: &Path, folder: &Path, mix: &Mix, instances: u16) -> Outcome<Self> {
        if folder.exists() {
            // Old counts would pass for new ones.
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let mut listeners = free(mix.services + 1)?;
        let admin = listeners.pop().ok_or("no port")?;
        let file = folder.join("outrigger.toml");
        fs::write(&file, configuration(mix, &listeners, admin, instances, folder)?)?;
        let log = File::create(folder.join("log"))?;
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--cache-sim=no", "--branch-sim=no", "--collect-systime=no"])
            .arg(format!("--callgrind-out-file={}", folder.join("counts").display()))
            .arg(format!("--vgdb-prefix={}", folder.join("vgdb").display()))
            .arg(binary)
            .args(["run".as_ref(), file.as_os_str()])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut sidecar = Self { child, folder: folder.to_owned(), dumps: 0, listeners };
        sidecar.listens()?;
        Ok(sidecar)
    }

    fn listens(&mut self) -> Outcome<()> {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.join("log"))?;
                return Err(format!("the sidecar ended with {status}:\n{log}").into());
            }
            if self.listeners.iter().all(|listener| TcpStream::connect(listener).is_ok()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("the sidecar does not listen".into())
    }

    /// Writes what was counted since the last time, and counts from nothing again.
    pub fn dump(&mut self) -> Outcome<PathBuf> {
        // What belongs to the last request ends after its answer.
        thread::sleep(Duration::from_millis(200));
        let asked = Command::new("vgdb")
            .arg(format!("--pid={}", self.child.id()))
            .arg(format!("--vgdb-prefix={}", self.folder.join("vgdb").display()))
            .arg("dump")
            .stdin(Stdio::null())
            .output()?;
        self.dumps += 1;
        let file = self.folder.join(format!("counts.{}", self.dumps));
        if !file.exists() {
            return Err(
                format!("callgrind wrote no counts: {}", String::from_utf8_lossy(&asked.stderr)).into()
            );
        }
        Ok(file)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything as shipped, but for one worker and ports of its own.
fn configuration(
    mix: &Mix,
    listeners: &[SocketAddr],
    admin: SocketAddr,
    port: u16,
    folder: &Path,
) -> Outcome<String> {
    let mut text = format!("workers = 1\n[admin]\nlisten = \"{admin}\"\n");
    let instances: Vec<_> = (0..mix.endpoints)
        .map(|number| Ok(format!("{}:{port}", Ipv4Addr::from(0x7f01_0001 + u32::try_from(number)?))))
        .collect::<Outcome<_>>()?;
    let instances = instances.join(",");
    for (number, listener) in listeners.iter().enumerate() {
        writeln!(text, "[service.s{number}]\nlisten = \"{listener}\"\nfrom = \"static://{instances}\"")?;
        if mix.checks() {
            writeln!(text, "health = {{ http = \"/health\" }}")?;
        }
        if matches!(mix.speaks, Speaks::Tls) {
            tls::certificate(folder)?;
            writeln!(text, "listen_tls = {{ cert = \"certificate.pem\", key = \"key.pem\" }}")?;
        }
    }
    Ok(text)
}

/// Ports that nobody listens on.
fn free(count: usize) -> Outcome<Vec<SocketAddr>> {
    let bound: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(bound.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
