//! The head of an instance's response, read strictly (RFC 9112, sections 4 to 6).

use bytes::{Bytes, BytesMut};
use http::StatusCode;
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
    pub(super) old: bool,
}

/// Fields in the order and the spelling in which they came.
#[derive(Debug, Default)]
pub struct Fields {
    text: Bytes,
    lines: Vec<Line>,
}

/// Where a field stands in the text.
#[derive(Clone, Copy, Debug)]
struct Line {
    name: (u32, u32),
    value: (u32, u32),
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
    /// In order, with repetitions; names as they are spelled, values as they came.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.slice(line.name), self.slice(line.value)))
    }

    /// Bytes of the head that they came in.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// The values of all fields of this name, in any case.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The first value of this name, as text.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
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
        let Some(parsed) = parsed.map_err(Malformed::Head)? else {
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
            fields: Fields { text, lines: parsed.lines },
            old: parsed.old,
        }))
    }

    /// How long the body is that comes with it (RFC 9112, section 6.3).
    pub(super) fn body_length(&self, to_head: bool) -> Result<Length, Malformed> {
        let status = self.status.as_u16();
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            return Ok(Length::Known(0));
        }
        let mut length = None;
        let mut coding = None;
        for (name, value) in self.fields.iter() {
            if name.eq_ignore_ascii_case(b"content-length") {
                let value = decimal(value).ok_or(Malformed::ContentLength)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(Malformed::ContentLength);
                }
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                coding = Some(value);
            }
        }
        match (coding, length) {
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
        let said = |token: &[u8]| {
            let mut values = self.fields.all("connection");
            values.any(|v| v.split(|byte| *byte == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token)))
        };
        !said(b"close") && (!self.old || said(b"keep-alive"))
    }
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
    // What was parsed are parts of the input; heads are too short for positions to be cut.
    let range = |part: &[u8]| {
        let from = part.as_ptr().addr().wrapping_sub(input.as_ptr().addr());
        #[expect(clippy::cast_possible_truncation, reason = "a head has less than 4 GiB")]
        let range = (from as u32, (from + part.len()) as u32);
        range
    };
    Ok(Some(Parsed {
        length,
        status: head.code.unwrap_or_default(),
        reason: head.reason.map_or((0, 0), |reason| range(reason.as_bytes())),
        old: head.version == Some(0),
        lines: head
            .headers
            .iter()
            .map(|field| Line { name: range(field.name.as_bytes()), value: range(field.value) })
            .collect(),
    }))
}

/// Digits and nothing else: a sign or a space means that two readers may disagree.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}
