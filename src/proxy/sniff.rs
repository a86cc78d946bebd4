//! Which version of HTTP a client speaks, by what it says first.

use super::transport::Transport;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

/// How HTTP/2 begins (RFC 9113, section 3.4); no request in HTTP/1 does.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Http1,
    Http2,
    /// More of them are needed.
    Unclear,
}

pub(super) fn said(first: &[u8]) -> Said {
    if first.starts_with(PREFACE) {
        Said::Http2
    } else if PREFACE.starts_with(first) {
        Said::Unclear
    } else {
        Said::Http1
    }
}

/// Reads on until it is clear, and gives what was read; `None` if the connection ends before. The caller limits the time.
pub(super) async fn listen(transport: &mut Transport, first: Bytes) -> Option<(Said, Bytes)> {
    let mut read = BytesMut::from(&*first);
    loop {
        let said = said(&read);
        if said != Said::Unclear {
            return Some((said, read.freeze()));
        }
        if transport.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_known_when_all_of_it_is_here() {
        for cut in 1..PREFACE.len() {
            assert_eq!(said(&PREFACE[..cut]), Said::Unclear, "{cut}");
        }
        assert_eq!(said(PREFACE), Said::Http2);
        assert_eq!(said(&[PREFACE, b"\0\0\0\x04"].concat()), Said::Http2);
        for other in
            ["GET / HTTP/1.1\r\n", "POST", "PRI / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nXX", "\r\n", "x"]
        {
            assert_eq!(said(other.as_bytes()), Said::Http1, "{other}");
        }
    }
}
