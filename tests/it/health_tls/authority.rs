//! Certificate authorities made by the `openssl` command, and what they sign.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority in a folder of its own, together with all that it signed.
#[derive(Debug)]
pub struct Authority(tempfile::TempDir);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Signed {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What `openssl ca` must be told.
const SETTINGS: &str = "[ca]\ndefault_ca = own\n[own]\ndatabase = issued\nnew_certs_dir = .\nrand_serial = yes\n\
    default_md = sha256\npolicy = any\ncopy_extensions = copy\nunique_subject = no\ncertificate = ca.pem\n\
    private_key = ca.key\n[any]\ncommonName = supplied\n";

impl Authority {
    pub fn new(subject: &str) -> Self {
        let own = Self(tempfile::tempdir().expect("a folder"));
        for (file, text) in [("settings", SETTINGS), ("issued", "")] {
            std::fs::write(own.folder().join(file), text).expect("a file");
        }
        own.request("ca", subject, &["-x509", "-days", "2", "-addext", "keyUsage=keyCertSign"]);
        own
    }

    /// For these names, such as `DNS:orders.internal,IP:127.0.0.1`; good for two days.
    pub fn sign(&self, name: &str, names: &str) -> Signed {
        self.sign_until(name, names, &["-days", "2"])
    }

    /// The same, expired years ago.
    pub fn sign_expired(&self, name: &str, names: &str) -> Signed {
        self.sign_until(name, names, &["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"])
    }

    /// The same, good only years from now.
    pub fn sign_later(&self, name: &str, names: &str) -> Signed {
        self.sign_until(name, names, &["-startdate", "20400101000000Z", "-enddate", "20400102000000Z"])
    }

    fn sign_until(&self, name: &str, names: &str, time: &[&str]) -> Signed {
        self.request(name, name, &["-addext", &format!("subjectAltName={names}")]);
        let file = |ending: &str| format!("{name}.{ending}");
        let (request, cert) = (file("key.csr"), file("pem"));
        let what = ["ca", "-batch", "-notext", "-config", "settings", "-in", &request, "-out", &cert];
        self.openssl(&[&what[..], time].concat());
        Signed { cert: self.folder().join(cert), key: self.folder().join(file("key")) }
    }

    pub fn cert(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    pub fn itself(&self) -> Signed {
        Signed { cert: self.cert(), key: self.folder().join("ca.key") }
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    /// A new key, and a request for a certificate; or the certificate, if the arguments say so.
    fn request(&self, name: &str, subject: &str, args: &[&str]) {
        let ending = if args.contains(&"-x509") { "pem" } else { "key.csr" };
        let (key, out, subject) =
            (format!("{name}.key"), format!("{name}.{ending}"), format!("/CN={subject}"));
        let kind =
            ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", &subject];
        self.openssl(&[&kind[..], &["-keyout", &key, "-out", &out], args].concat());
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.folder()).output().expect("openssl");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
}
