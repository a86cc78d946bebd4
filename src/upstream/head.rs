//! The head of an instance's response, read strictly (RFC 9112, sections 4 to 6).

use crate::net::field::{Field, lists};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use httparse::Status;
use std::mem::MaybeUninit;

/// No head is longer ...
const MOST_BYTES: usize = 400 << 10;
/// ... or has more fields.
const MOST_FIELDS: usize = 256;
/// Most responses have fewer fields: looking at many costs time even when they are not there.
const FEW_FIELDS: usize = 64;

/// A response's status line and fields.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// `None` if it is the usual one.
    pub reason: Option<Bytes>,
    pub fields: Fields,
    /// HTTP/1.0.
    pub old: bool,
}

/// Fields in the order and the spelling in which they came.
#[derive(Debug, Default)]
pub struct Fields {
    text: Bytes,
    lines: Vec<Line>,
    /// Which kinds are among them: most of those that are asked for are not.
    kinds: Kinds,
}

/// A set of kinds of fields.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds(u32);

impl Kinds {
    fn of(lines: &[Line]) -> Self {
        Self(lines.iter().fold(0, |kinds, line| kinds | Self::bit(line.field)))
    }

    fn has(self, field: Field) -> bool {
        self.0 & Self::bit(field) != 0
    }

    fn bit(field: Field) -> u32 {
        1 << field as u32
    }
}

/// Where a field stands in the text.
#[derive(Clone, Copy, Debug)]
struct Line {
    field: Field,
    name: (u32, u32),
    value: (u32, u32),
}

impl Line {
    /// A value that is empty has no place; the name has, and the colon after it.
    fn end(&self) -> u32 {
        self.value.1.max(self.name.1 + 1)
    }
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
    /// As long as the connection.
    UntilClose,
}

/// What came back is no HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("invalid response head: {0}")]
    Head(httparse::Error),
    /// The beginning of an alert or of a handshake (RFC 8446, section 5.1).
    #[error("the instance speaks TLS, and the service is not set to: give tls = true")]
    Tls,
    #[error("the response head is longer than {} KiB", MOST_BYTES >> 10)]
    TooLong,
    #[error("invalid status code")]
    StatusCode,
    #[error("invalid or contradicting Content-Length (RFC 9112, section 6.3)")]
    ContentLength,
    #[error("Transfer-Encoding in HTTP/1.0 (RFC 9112, section 6.1)")]
    OldCoding,
    #[error("the instance switched protocols unasked")]
    Switched,
    #[error("invalid chunk: {0}")]
    Chunk(&'static str),
    #[error("invalid trailers: {0}")]
    Trailers(&'static str),
}

impl Fields {
    fn new(text: Bytes, lines: Vec<Line>) -> Self {
        let kinds = Kinds::of(&lines);
        Self { text, lines, kinds }
    }

    /// In order, with repetitions; names as they are spelled, values as they came.
    pub fn iter(&self) -> impl Iterator<Item = (Field, &[u8], &[u8])> {
        self.lines.iter().map(|line| (line.field, self.slice(line.name), self.slice(line.value)))
    }

    /// Writes those that are to be kept as they came, one line each.
    pub fn write(&self, out: &mut Vec<u8>, mut keep: impl FnMut(Field, &[u8], &[u8]) -> bool) {
        let mut run: Option<(u32, u32)> = None;
        let mut flush = |run: Option<(u32, u32)>| {
            if let Some(run) = run {
                out.extend_from_slice(self.slice(run));
                out.extend_from_slice(b"\r\n");
            }
        };
        for line in
            self.lines.iter().filter(|line| keep(line.field, self.slice(line.name), self.slice(line.value)))
        {
            // Mostly all of them are kept, and go in one piece.
            match &mut run {
                Some((_, end)) if self.slice((*end, line.name.0)) == b"\r\n" => *end = line.end(),
                _ => flush(run.replace((line.name.0, line.end()))),
            }
        }
        flush(run);
    }

    /// A part of the head, without a copy.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.text.slice_ref(part)
    }

    /// The values of all fields of this kind.
    pub fn all(&self, field: Field) -> impl Iterator<Item = &[u8]> {
        let lines = if self.kinds.has(field) { &*self.lines } else { &[] };
        lines.iter().filter(move |line| line.field == field).map(|line| self.slice(line.value))
    }

    /// Bytes of the head that they came in.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    fn slice(&self, (from, to): (u32, u32)) -> &[u8] {
        self.text.get(from as usize..to as usize).unwrap_or_default()
    }
}

impl Head {
    /// Takes a head off the front of `input`, once the whole of it is there.
    pub(super) fn take(input: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        if input.is_empty() {
            return Ok(None);
        }
        let parsed = match parse::<FEW_FIELDS>(input) {
            Err(httparse::Error::TooManyHeaders) => parse::<MOST_FIELDS>(input),
            parsed => parsed,
        };
        let malformed = |error| if is_tls(input) { Malformed::Tls } else { Malformed::Head(error) };
        let Some(parsed) = parsed.map_err(malformed)? else {
            return if input.len() < MOST_BYTES { Ok(None) } else { Err(Malformed::TooLong) };
        };
        if parsed.length > MOST_BYTES {
            return Err(Malformed::TooLong);
        }
        let text = input.split_to(parsed.length).freeze();
        let status = StatusCode::from_u16(parsed.status).map_err(|_| Malformed::StatusCode)?;
        let reason = text.slice(parsed.reason.0 as usize..parsed.reason.1 as usize);
        let usual = status.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason);
        Ok(Some(Self {
            status,
            reason: (!usual).then_some(reason),
            fields: Fields::new(text, parsed.lines),
            old: parsed.old,
        }))
    }

    /// One that came in another form than text, without the fields that are not to be kept.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, keep: impl Fn(Field) -> bool) -> Self {
        let mut text = Vec::with_capacity(32 * headers.len() + 32);
        let mut lines = Vec::with_capacity(headers.len());
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(status.as_str().as_bytes());
        text.extend_from_slice(b" \r\n");
        let mut push = |part: &[u8]| {
            #[expect(clippy::cast_possible_truncation, reason = "a head has less than 4 GiB")]
            let from = text.len() as u32;
            text.extend_from_slice(part);
            #[expect(clippy::cast_possible_truncation, reason = "a head has less than 4 GiB")]
            let range = (from, text.len() as u32);
            range
        };
        for (name, value) in headers {
            let field = Field::of(name.as_str().as_bytes());
            if keep(field) {
                let name = push(name.as_str().as_bytes());
                push(b": ");
                let value = push(value.as_bytes());
                push(b"\r\n");
                lines.push(Line { field, name, value });
            }
        }
        push(b"\r\n");
        Self { status, reason: None, fields: Fields::new(text.into(), lines), old: false }
    }

    /// How long the body is that comes with it (RFC 9112, section 6.3).
    pub(super) fn body_length(&self, to_head: bool) -> Result<Length, Malformed> {
        let status = self.status.as_u16();
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            return Ok(Length::Known(0));
        }
        let mut length = None;
        for value in self.fields.all(Field::ContentLength) {
            let value = decimal(value).ok_or(Malformed::ContentLength)?;
            if length.replace(value).is_some_and(|before| before != value) {
                return Err(Malformed::ContentLength);
            }
        }
        match (self.fields.all(Field::TransferEncoding).last(), length) {
            (Some(_), _) if self.old => Err(Malformed::OldCoding),
            (Some(coding), _) => {
                let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
                Ok(if last.eq_ignore_ascii_case(b"chunked") { Length::Chunked } else { Length::UntilClose })
            }
            (None, Some(length)) => Ok(Length::Known(length)),
            (None, None) => Ok(Length::UntilClose),
        }
    }

    /// Whether the instance lets the connection be used again (RFC 9112, section 9.3).
    pub(super) fn keeps_alive(&self) -> bool {
        let said = |token| self.fields.all(Field::Connection).any(|value| lists(value, token));
        !said("close") && (!self.old || said("keep-alive"))
    }
}

/// Whether these bytes begin a record of TLS.
pub(super) fn is_tls(input: &[u8]) -> bool {
    matches!(input, [21 | 22, 3, ..])
}

/// What of a head is kept: where things stand in the input.
struct Parsed {
    length: usize,
    status: u16,
    reason: (u32, u32),
    old: bool,
    lines: Vec<Line>,
}

fn parse<const FIELDS: usize>(input: &[u8]) -> Result<Option<Parsed>, httparse::Error> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Status::Complete(length) = config.parse_response_with_uninit_headers(&mut head, input, &mut room)?
    else {
        return Ok(None);
    };
    // The parser takes a LF alone for the end of a line, and others do not (RFC 9112, section 2.2).
    let mut line_ends = head.headers.iter().map(|field| part_of(input, field.name.as_bytes()).0 as usize);
    let ends_whole = |at: usize| input.get(at.wrapping_sub(2)..at) == Some(b"\r\n");
    if !line_ends.all(ends_whole) || !ends_whole(length) || !ends_whole(length - 2) {
        return Err(httparse::Error::NewLine);
    }
    let range = |part: &[u8]| part_of(input, part);
    Ok(Some(Parsed {
        length,
        status: head.code.unwrap_or_default(),
        reason: head.reason.map_or((0, 0), |reason| range(reason.as_bytes())),
        old: head.version == Some(0),
        lines: head
            .headers
            .iter()
            .map(|field| Line {
                field: Field::of(field.name.as_bytes()),
                name: range(field.name.as_bytes()),
                value: range(field.value),
            })
            .collect(),
    }))
}

/// Where what was parsed stands in the input; heads are too short for positions to be cut.
fn part_of(input: &[u8], part: &[u8]) -> (u32, u32) {
    if part.is_empty() {
        // Nothing may be anywhere: a reason that is missing is not part of the input.
        return (0, 0);
    }
    let from = part.as_ptr().addr().wrapping_sub(input.as_ptr().addr());
    #[expect(clippy::cast_possible_truncation, reason = "a head has less than 4 GiB")]
    let range = (from as u32, (from + part.len()) as u32);
    range
}

/// Digits and nothing else: a sign or a space means that two readers may disagree.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(text: &[u8]) -> Result<Option<Head>, Malformed> {
        Head::take(&mut BytesMut::from(text))
    }

    fn length(fields: &str) -> Result<Length, Malformed> {
        take(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).unwrap().unwrap().body_length(false)
    }

    #[test]
    fn a_head_is_taken_when_all_of_it_is_there_and_what_follows_stays() {
        let text = b"HTTP/1.1 404 Gone Fishing\r\nX-Camel:  caf\xe9 \r\nx-camel:\r\nDATE: now\r\n\r\nbody";
        let end = text.len() - 4;
        for cut in 0..end {
            assert!(take(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let mut input = BytesMut::from(&text[..]);
        let head = Head::take(&mut input).unwrap().unwrap();
        assert_eq!(input, "body");
        assert_eq!(
            (head.status, head.reason.as_deref()),
            (StatusCode::NOT_FOUND, Some(&b"Gone Fishing"[..]))
        );
        let fields: Vec<_> = head.fields.iter().collect();
        assert_eq!(
            fields,
            [
                (Field::Other, &b"X-Camel"[..], &b"caf\xe9"[..]),
                (Field::Other, b"x-camel", b""),
                (Field::Date, b"DATE", b"now")
            ]
        );
        let kept = |names: &[&str]| {
            let mut out = Vec::new();
            head.fields.write(&mut out, |_, name, _| names.iter().any(|kept| kept.as_bytes() == name));
            out
        };
        assert_eq!(kept(&["X-Camel", "x-camel", "DATE"]), b"X-Camel:  caf\xe9\r\nx-camel:\r\nDATE: now\r\n");
        assert_eq!(kept(&["X-Camel", "DATE"]), b"X-Camel:  caf\xe9\r\nDATE: now\r\n");
        assert_eq!(kept(&["x-camel"]), b"x-camel:\r\n");
        assert_eq!(kept(&[]), b"");
        assert_eq!(take(b"HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap().reason, None);
        assert!(take(b"HTTP/1.1 200\r\n\r\n").unwrap().is_some(), "a reason may be missing");
    }

    #[test]
    fn a_head_in_another_form_reads_like_text() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("content-length", "7"), ("x-empty", ""), ("x-a", "2")] {
            headers.append(name, value.parse().unwrap());
        }
        let head = Head::of(StatusCode::NOT_FOUND, &headers, |field| field != Field::ContentLength);
        let mut out = Vec::new();
        head.fields.write(&mut out, |_, _, _| true);
        assert_eq!(out, b"x-a: 1\r\nx-a: 2\r\nx-empty: \r\n");
        let text = Head::take(&mut BytesMut::from(&head.fields.text[..])).unwrap().unwrap();
        assert_eq!((text.status, text.fields.lines.len()), (StatusCode::NOT_FOUND, 3));
        let whole = Head::of(StatusCode::OK, &headers, |_| true);
        assert_eq!(whole.body_length(false), Ok(Length::Known(7)));
    }

    #[test]
    fn many_fields_are_read_and_too_many_refused() {
        let many = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
        for count in [FEW_FIELDS, FEW_FIELDS + 1, MOST_FIELDS] {
            assert_eq!(take(many(count).as_bytes()).unwrap().unwrap().fields.iter().count(), count);
        }
        assert!(take(many(MOST_FIELDS + 1).as_bytes()).is_err());
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MOST_BYTES));
        assert_eq!(take(long.as_bytes()).unwrap_err(), Malformed::TooLong);
        assert_eq!(take(format!("{long}\r\n\r\n").as_bytes()).unwrap_err(), Malformed::TooLong);
    }

    #[test]
    fn malformed_heads_are_refused() {
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA:\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "220 smtp.example.org\r\n",
        ] {
            assert!(take(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_body_is_as_long_as_the_head_says() {
        for (fields, expected) in [
            ("Content-Length: 7\r\n", Some(Length::Known(7))),
            ("Content-Length: 7\r\nCONTENT-LENGTH: 7\r\n", Some(Length::Known(7))),
            ("Transfer-Encoding: Chunked\r\n", Some(Length::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n", Some(Length::Chunked)),
            ("Transfer-Encoding: gzip, chunked\r\n", Some(Length::Chunked)),
            ("Transfer-Encoding: chunked, gzip\r\n", Some(Length::UntilClose)),
            ("", Some(Length::UntilClose)),
            ("Content-Length: 7\r\nContent-Length: 8\r\n", None),
            ("Content-Length: 7, 7\r\n", None),
            ("Content-Length: +7\r\n", None),
            ("Content-Length: -7\r\n", None),
            ("Content-Length: 0x7\r\n", None),
            ("Content-Length:\r\n", None),
            ("Content-Length: 18446744073709551616\r\n", None),
        ] {
            assert_eq!(length(fields).ok(), expected, "{fields:?}");
        }
        let of = |text: &str, to_head| take(text.as_bytes()).unwrap().unwrap().body_length(to_head);
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true), Ok(Length::Known(0)));
        for bare in [101, 204, 304] {
            assert_eq!(
                of(&format!("HTTP/1.1 {bare} X\r\nContent-Length: 7\r\n\r\n"), false),
                Ok(Length::Known(0))
            );
        }
        assert!(of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false).is_err());
    }

    #[test]
    fn a_connection_is_kept_as_the_head_says() {
        for (version, fields, expected) in [
            (1, "", true),
            (1, "Connection: x, Close\r\n", false),
            (1, "Connection: keep-alive\r\nconnection: close\r\n", false),
            (0, "", false),
            (0, "Connection: Keep-Alive\r\n", true),
            (0, "Connection: keep-alive, close\r\n", false),
        ] {
            let head = take(format!("HTTP/1.{version} 200 OK\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!(head.keeps_alive(), expected, "1.{version} {fields:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_refused_or_waited_for(text in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(head)) = take(&text) {
                prop_assert!(head.fields.iter().all(|(_, name, _)| !name.is_empty()));
            }
        }
    }
}
