//! What a service's connections carry, and what is said ahead of it.

/// What clients and instances speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Each request gets an instance.
    #[default]
    Http,
    /// Each connection gets one; its bytes mean nothing to us.
    Tcp,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Http, Self::Tcp];

    /// The word in configuration; the scheme of a URL, too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// The PROXY protocol: the client's address, said ahead of the connection's own bytes
/// (haproxy.org/download/2.9/doc/proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProxyProtocol {
    /// Instances are told.
    pub send: Option<ProxyVersion>,
    /// We are told, by everyone who connects.
    pub accept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// The word in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}
