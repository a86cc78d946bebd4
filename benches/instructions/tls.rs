//! Clients that speak TLS: each is an `openssl s_client`, and what is written to it and read from it is not encrypted.

use crate::Outcome;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A connection; ended when dropped.
pub struct Secured {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Secured {
    /// Begins the handshake; what is written waits for its end.
    pub fn connect(to: SocketAddr) -> Outcome<Self> {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"])
            .args(["-alpn", "http/1.1", "-connect", &to.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("openssl cannot be started: {error}"))?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        Ok(Self { child, stdin, stdout })
    }
}

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stdout.read(buf)
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stdin.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `certificate.pem` and `key.pem` (ECDSA, P-256) in a folder.
pub fn certificate(folder: &Path) -> Outcome<()> {
    let output = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
                .split(' '),
        )
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .output()
        .map_err(|error| format!("openssl cannot be started: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("openssl made no certificate: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}
