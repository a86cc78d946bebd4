//! The PROXY protocol, versions 1 and 2: who the client is, said ahead of its own bytes
//! (haproxy.org/download/2.9/doc/proxy-protocol.txt).

use crate::policy::ProxyVersion;
use memchr::memchr;
use ppp::{v1, v2};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, Take};
use tokio::net::TcpStream;

/// How version 2 begins, and no other protocol.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// No header of either version is shorter: so much can be read before it is known which one it is.
const FIRST: usize = SIGNATURE.len();
/// Signature, version and command, family, length.
const FIXED: usize = FIRST + 4;
/// A line of version 1 with its CRLF (section 2.1).
const LONGEST_LINE: usize = 107;
/// What follows the fixed part of version 2: addresses (36 bytes for IPv6) and extensions, a client's certificate
/// among them.
const LONGEST_REST: usize = 8 << 10;

/// Both ends of the connection that the header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it does not begin with a PROXY protocol header")]
    Missing,
    #[error("its PROXY protocol header took too long")]
    Late,
    #[error("it ended amid its PROXY protocol header")]
    Ended,
    #[error("its PROXY protocol header is longer than {0} bytes")]
    TooLong(usize),
    #[error("its PROXY protocol header is malformed: {0}")]
    Malformed(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header within `limit`, and not a byte more. Nothing if it speaks of no other connection than this one: the
/// proxy's own (LOCAL), or one that it cannot describe (UNKNOWN, UNSPEC, sockets of Unix).
///
/// # Errors
/// [`Refused`]; the connection is of no use then.
pub(super) async fn read(stream: &mut TcpStream, limit: Duration) -> Result<Option<Addresses>, Refused> {
    let header = tokio::time::timeout(limit, header_of(stream)).await.map_err(|_| Refused::Late)??;
    parse(&header)
}

async fn header_of(stream: &mut TcpStream) -> Result<Vec<u8>, Refused> {
    let mut header = Vec::with_capacity(LONGEST_LINE);
    while header.len() < FIRST {
        more(stream, FIRST - header.len(), &mut header).await?;
        let begins = |with: &[u8]| header.iter().zip(with).all(|(a, b)| a == b);
        if !begins(SIGNATURE) && !begins(WORD) {
            return Err(Refused::Missing);
        }
    }
    if !header.starts_with(SIGNATURE) {
        line(stream, &mut header).await?;
        return Ok(header);
    }
    while header.len() < FIXED {
        more(stream, FIXED - header.len(), &mut header).await?;
    }
    let length = header.last_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    if length > LONGEST_REST {
        return Err(Refused::TooLong(FIXED + LONGEST_REST));
    }
    while header.len() < FIXED + length {
        more(stream, FIXED + length - header.len(), &mut header).await?;
    }
    Ok(header)
}

/// Reads to the end of the line, and no further: what follows is looked at before it is taken.
async fn line(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), Refused> {
    let mut ahead = [0; LONGEST_LINE];
    loop {
        let count = stream.peek(&mut ahead).await?;
        let seen = ahead.get(..count).unwrap_or_default();
        let end = memchr(b'\n', seen);
        let wanted = end.map_or(count, |end| end + 1);
        if header.len() + wanted > LONGEST_LINE {
            return Err(Refused::TooLong(LONGEST_LINE));
        }
        more(stream, wanted, header).await?;
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Reads at least one byte, and `most` at most.
async fn more(stream: &mut TcpStream, most: usize, header: &mut Vec<u8>) -> Result<(), Refused> {
    let mut part: Take<_> = stream.take(most as u64);
    if part.read_buf(header).await? == 0 { Err(Refused::Ended) } else { Ok(()) }
}

/// What a whole header says.
pub(super) fn parse(header: &[u8]) -> Result<Option<Addresses>, Refused> {
    let addresses = |source: (IpAddr, u16), destination: (IpAddr, u16)| {
        Some(Addresses { source: source.into(), destination: destination.into() })
    };
    if !header.starts_with(SIGNATURE) {
        let malformed = |error: v1::BinaryParseError| Refused::Malformed(error.to_string());
        return Ok(match v1::Header::try_from(header).map_err(malformed)?.addresses {
            v1::Addresses::Tcp4(a) => addresses(
                (a.source_address.into(), a.source_port),
                (a.destination_address.into(), a.destination_port),
            ),
            v1::Addresses::Tcp6(a) => addresses(
                (a.source_address.into(), a.source_port),
                (a.destination_address.into(), a.destination_port),
            ),
            v1::Addresses::Unknown => None,
        });
    }
    let header = v2::Header::try_from(header).map_err(|error| Refused::Malformed(error.to_string()))?;
    Ok(match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(a)) => addresses(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(a)) => addresses(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
        _ => None,
    })
}

/// The header that tells an instance of these addresses; without them, that there is nothing to tell.
pub(super) fn header(version: ProxyVersion, addresses: Option<&Addresses>) -> Vec<u8> {
    let addresses = addresses.map(|a| (a.source, a.destination));
    // Both of one family, or the protocol has no word for them.
    let addresses = addresses.filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4());
    match (version, addresses) {
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        (ProxyVersion::V2, addresses) => binary(addresses),
    }
}

/// Section 2.2: a PROXY command for a stream over IPv4 or IPv6, or of no family.
fn binary(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let ip = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (family, rest) = match addresses {
        None => (0, Vec::new()),
        Some((source, destination)) => {
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            let rest = [ip(source), ip(destination), ports].concat();
            (if source.is_ipv4() { 0x11 } else { 0x21 }, rest)
        }
    };
    let length = u16::try_from(rest.len()).unwrap_or_default().to_be_bytes();
    [SIGNATURE, &[0x21, family], &length, &rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What is read of these bytes, and what is left of them; the client hangs up after them.
    fn heard(parts: &[&[u8]]) -> (Result<Option<Addresses>, Refused>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.set_nodelay(true).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let said = async {
                for part in parts {
                    client.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            };
            let ((), read) = tokio::join!(said, read(&mut stream, Duration::from_secs(5)));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            (read, rest)
        })
    }

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn binary_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 203, 0, 113, 9, 0xab, 0xcd, 0, 25];

    #[test]
    fn the_header_is_read_to_its_last_byte_and_no_further() {
        let v4 = addresses("192.0.2.7:43981", "203.0.113.9:25");
        let v6 = addresses("[2001:db8::7]:1", "[::1]:65535");
        let with_extensions = [V4, &[0x03, 0, 4, 1, 2, 3, 4, 0xee, 0, 1, 9]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 203.0.113.9 43981 25\r\n".to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (binary_of(0x21, 0x11, V4), Some(v4)),
            (binary_of(0x21, 0x11, &with_extensions), Some(v4)),
            (header_of_both(ProxyVersion::V2, v6), Some(v6)),
            // LOCAL, a datagram, no family, sockets of Unix: there is nothing to tell.
            (binary_of(0x20, 0x00, b""), None),
            (binary_of(0x20, 0x11, V4), None),
            (binary_of(0x21, 0x12, V4), None),
            (binary_of(0x21, 0x00, b"anything"), None),
            (binary_of(0x21, 0x31, &[7; 216]), None),
        ] {
            let whole = [&header, &b"\nPROXY and more"[..]].concat();
            let (read, rest) = heard(&[&whole]);
            assert_eq!(read.unwrap(), expected, "{header:?}");
            assert_eq!(rest, b"\nPROXY and more", "{header:?}");
            let bytes: Vec<_> = whole.chunks(1).collect();
            let (read, rest) = heard(&bytes);
            assert_eq!((read.unwrap(), &rest[..]), (expected, &b"\nPROXY and more"[..]), "byte by byte");
        }
    }

    fn header_of_both(version: ProxyVersion, of: Addresses) -> Vec<u8> {
        header(version, Some(&of))
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let is = |bytes: &[u8], expected: fn(&Refused) -> bool| {
            let error = heard(&[bytes]).0.expect_err(&format!("{:?}", String::from_utf8_lossy(bytes)));
            assert!(expected(&error), "{:?}: {error:?}", String::from_utf8_lossy(bytes));
        };
        let missing = |error: &Refused| matches!(error, Refused::Missing);
        let ended = |error: &Refused| matches!(error, Refused::Ended);
        let too_long = |error: &Refused| matches!(error, Refused::TooLong(_));
        let malformed = |error: &Refused| matches!(error, Refused::Malformed(_));
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"proxy UNKNOWN\r\n",
            b"PROXYUNKNOWN\r\n",
            b"\r\n\r\n\r\n",
            b"\x16\x03",
        ] {
            is(bytes, missing);
        }
        for bytes in [&b""[..], b"PROXY", b"PROXY TCP4 1.2.3.4 ", SIGNATURE] {
            is(bytes, ended);
        }
        is(binary_of(0x21, 0x11, V4).split_last().unwrap().1, ended);
        is(format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).as_bytes(), too_long);
        is(&[b"PROXY ", &[b'x'; 200][..]].concat(), too_long);
        is(&binary_of(0x21, 0x11, &[0; LONGEST_REST + 1]), too_long);
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2",
            "PROXY TCP4 1.2.3 5.6.7.8 1 2",
            "PROXY TCP4 ::1 ::2 1 2",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2",
        ] {
            is(format!("{line}\r\n").as_bytes(), malformed);
        }
        is(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", malformed);
        is(b"PROXY TCP4 \xff.2.3.4 5.6.7.8 1 2\r\n", malformed);
        // Another version, another command, a family or transport that does not exist, too few bytes of addresses.
        for (command, family, rest) in
            [(0x11, 0x11, V4), (0x22, 0x11, V4), (0x21, 0x41, V4), (0x21, 0x13, V4), (0x21, 0x11, &V4[1..])]
        {
            is(&binary_of(command, family, rest), malformed);
        }
        is(&binary_of(0x21, 0x21, V4), malformed);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(b"PROXY TCP4 ").await.unwrap();
        let read = read(&mut stream, Duration::from_secs(10)).await;
        assert!(matches!(read, Err(Refused::Late)), "{read:?}");
    }

    #[test]
    fn without_addresses_instances_are_told_so() {
        assert_eq!(header(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(header(ProxyVersion::V2, None), binary_of(0x21, 0, b""));
        let mixed = addresses("127.0.0.1:1", "[::1]:2");
        assert_eq!(header(ProxyVersion::V1, Some(&mixed)), b"PROXY UNKNOWN\r\n");
        let v4 = addresses("192.0.2.7:43981", "203.0.113.9:25");
        assert_eq!(header(ProxyVersion::V2, Some(&v4)), binary_of(0x21, 0x11, V4));
        let line = b"PROXY TCP4 192.0.2.7 203.0.113.9 43981 25\r\n";
        assert_eq!(header(ProxyVersion::V1, Some(&v4)), line);
    }

    fn ends() -> impl Strategy<Value = Addresses> {
        let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        (prop_oneof![v4, v6], any::<(u16, u16)>())
            .prop_map(|((a, b), (c, d))| Addresses { source: (a, c).into(), destination: (b, d).into() })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ends in ends()) {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = header(version, Some(&ends));
                prop_assert!(version == ProxyVersion::V2 || header.len() <= LONGEST_LINE);
                prop_assert_eq!(parse(&header).unwrap(), Some(ends));
            }
        }

        #[test]
        fn no_bytes_are_a_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), v2: bool) {
            let whole = if v2 { [SIGNATURE, &bytes].concat() } else { [WORD, &bytes].concat() };
            let _ = parse(&whole);
        }
    }
}
