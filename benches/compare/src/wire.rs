//! A connection with or without TLS, read and written without waiting.

use crate::Outcome;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Whom the certificate is for.
pub const NAME: &str = "bench.local";

/// What is read from a socket at once; all of it is decrypted at once, so what a caller reads into must be larger by a record.
const PIECE: usize = 32 * 1024;

pub enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub struct Tls {
    stream: TcpStream,
    session: Connection,
    piece: Vec<u8>,
}

/// A certificate (ECDSA, P-256) that is its own authority: who is shown it, and who trusts it.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
}

/// What clients offer (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    Http1,
    Http2,
}

impl Certificate {
    pub fn make(folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let of = |name: &str| folder.join(name);
        let made = Self { certificate: of("certificate.pem"), key: of("key.pem"), both: of("both.pem") };
        let request = "[req]\nprompt = no\ndistinguished_name = who\nx509_extensions = leaf\n[who]\nCN = bench.local\n\
                       [leaf]\nbasicConstraints = critical, CA:false\nsubjectAltName = DNS:bench.local\n";
        fs::write(of("request.cnf"), request)?;
        let output = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30".split(' '))
            .arg("-config")
            .arg(of("request.cnf"))
            .arg("-keyout")
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate)
            .output()
            .map_err(|error| format!("openssl cannot be started: {error}"))?;
        if !output.status.success() {
            return Err(
                format!("openssl made no certificate: {}", String::from_utf8_lossy(&output.stderr)).into()
            );
        }
        fs::write(&made.both, [fs::read(&made.certificate)?, fs::read(&made.key)?].concat())?;
        Ok(made)
    }

    /// What instances speak.
    pub fn server(&self) -> Outcome<Arc<ServerConfig>> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&self.certificate)?],
                PrivateKeyDer::from_pem_file(&self.key)?,
            )?;
        Ok(Arc::new(config))
    }

    /// What clients speak: every connection is a whole handshake.
    pub fn client(&self, offer: Offer) -> Outcome<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate)?)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = match offer {
            Offer::Http1 => vec![b"http/1.1".to_vec()],
            Offer::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Arc::new(config))
    }
}

/// One cipher and one group at both ends, so that every proxy between them uses the same.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![rustls::crypto::ring::kx_group::X25519];
    Arc::new(provider)
}

impl Wire {
    /// Connects; the handshake begins with what is written first.
    pub fn connect(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Outcome<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let Some(config) = tls else { return Ok(Self::Plain(stream)) };
        let session = ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?;
        Ok(Self::tls(stream, session.into()))
    }

    /// A connection that was accepted.
    pub fn accepted(stream: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Outcome<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let Some(config) = tls else { return Ok(Self::Plain(stream)) };
        Ok(Self::tls(stream, ServerConnection::new(Arc::clone(config))?.into()))
    }

    fn tls(stream: TcpStream, session: Connection) -> Self {
        Self::Tls(Box::new(Tls { stream, session, piece: vec![0; PIECE] }))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.stream,
        }
    }

    /// What both sides agreed on, once they have.
    pub fn agreed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.session.alpn_protocol(),
        }
    }

    /// What has come; nothing stays behind that the socket would not be ready for. Nothing at all is the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Takes bytes; over TLS, what was taken may still wait here for [`Self::flush`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => {
                tls.flush()?;
                let taken = tls.session.writer().write(bytes)?;
                match tls.flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                    _ => Ok(taken),
                }
            }
        }
    }

    /// Writes what waits here; `WouldBlock` if some of it still does.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Says goodbye, as far as there is room for it.
    pub fn part(&mut self) {
        if let Self::Tls(tls) = self {
            tls.session.send_close_notify();
            let _ = tls.flush();
        }
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.piece)?;
            let mut came = self.piece.get(..read).unwrap_or_default();
            while !came.is_empty() {
                self.session.read_tls(&mut came)?;
                let state = self.session.process_new_packets().map_err(io::Error::other)?;
                if state.plaintext_bytes_to_read() > 0 {
                    let room = buffer.get_mut(filled..).unwrap_or_default();
                    filled += self.session.reader().read(room)?;
                }
            }
            if self.session.wants_write() {
                match self.flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if filled > 0 || read == 0 {
                return Ok(filled);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}
