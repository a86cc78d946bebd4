//! What is kept of a client's bytes: the head of its next request. Bodies are passed over, and chunked ones are read
//! strictly on the way (RFC 9112, section 7.1): hyper takes what others may read in another way.

use crate::upstream::Framing;

const BAD_CHUNK: &str = "a malformed chunk or trailer section (RFC 9112, section 7.1)";

/// Hears every byte of a connection, in order.
///
/// What it keeps is bounded by what hyper holds: hyper reads no further than it has room for a head.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Ear {
    heard: Vec<u8>,
    body: Rest,
}

/// What is still to come of the body that is being passed over.
#[derive(Debug, Default)]
enum Rest {
    #[default]
    Over,
    Known(u64),
    Chunked(Chunks),
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Chunks {
    /// Its digits so far, and what they come to.
    Size(u8, u64),
    /// White space after the size: only an extension may follow.
    Blank(u64),
    Extension(u64),
    SizeEnd(u64),
    Bytes(u64),
    Break,
    BreakEnd,
    /// A trailer, or the end.
    Line,
    Trailer,
    TrailerEnd,
    End,
}

impl Ear {
    /// # Errors
    /// If the body that goes on with these bytes is malformed.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let beyond = self.body.pass(bytes)?;
        self.heard.extend_from_slice(beyond);
        Ok(())
    }

    /// All that came since the end of the last request.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }

    /// Takes back what was taken, whose last `beyond` bytes came after the request's head: a body, and what is behind it.
    ///
    /// # Errors
    /// If the body is malformed as far as it has come.
    pub fn go_on(&mut self, mut heard: Vec<u8>, beyond: usize, framing: Framing) -> Result<(), &'static str> {
        self.body = match framing {
            Framing::Empty => Rest::Over,
            Framing::Length(length) => Rest::Known(length),
            Framing::Chunked => Rest::Chunked(Chunks::Size(0, 0)),
        };
        let head = heard.len().saturating_sub(beyond);
        let kept = self.body.pass(heard.get(head..).unwrap_or_default())?.len();
        heard.drain(..heard.len() - kept);
        self.heard = heard;
        Ok(())
    }
}

impl Rest {
    /// What of these bytes comes after the body.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
        match self {
            Self::Over => Ok(bytes),
            Self::Known(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Over;
                }
                Ok(bytes.get(count..).unwrap_or_default())
            }
            Self::Chunked(chunks) => Ok(match chunks.pass(bytes)? {
                Some(beyond) => {
                    *self = Self::Over;
                    beyond
                }
                None => &[],
            }),
        }
    }
}

impl Chunks {
    /// What comes after the body, once its end is there.
    fn pass<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
        while let Some((byte, mut rest)) = bytes.split_first() {
            *self = match (*self, *byte) {
                (Self::Bytes(left), _) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    rest = bytes.get(count..).unwrap_or_default();
                    match left - count as u64 {
                        0 => Self::Break,
                        left => Self::Bytes(left),
                    }
                }
                (Self::Size(digits @ 0..16, size), byte) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).unwrap_or_default();
                    Self::Size(digits + 1, size << 4 | u64::from(digit))
                }
                (Self::Size(1.., size), b' ' | b'\t') => Self::Blank(size),
                (Self::Size(1.., size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
                (Self::Size(1.., size) | Self::Blank(size), b';') => Self::Extension(size),
                (same @ Self::Blank(_), b' ' | b'\t') => same,
                (same @ Self::Extension(_), byte) if is_text(byte) => same,
                (Self::SizeEnd(0), b'\n') => Self::Line,
                (Self::SizeEnd(size), b'\n') => Self::Bytes(size),
                (Self::Break, b'\r') => Self::BreakEnd,
                (Self::BreakEnd, b'\n') => Self::Size(0, 0),
                (Self::Line, b'\r') => Self::End,
                (Self::End, b'\n') => return Ok(Some(rest)),
                // Neither a folded line nor one without a name.
                (Self::Line, byte) if is_text(byte) && !matches!(byte, b' ' | b'\t' | b':') => Self::Trailer,
                (Self::Trailer, b'\r') => Self::TrailerEnd,
                (Self::Trailer, byte) if is_text(byte) => Self::Trailer,
                (Self::TrailerEnd, b'\n') => Self::Line,
                _ => return Err(BAD_CHUNK),
            };
            bytes = rest;
        }
        Ok(None)
    }
}

/// What may be in a line.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard behind a body, if the bytes come in pieces of `step`, the first of them with the head.
    fn behind(framing: Framing, text: &[u8], step: usize) -> Result<Vec<u8>, &'static str> {
        let mut ear = Ear::default();
        let mut pieces = text.chunks(step);
        ear.hear(b"head")?;
        ear.hear(pieces.next().unwrap_or_default())?;
        let heard = ear.take();
        let beyond = heard.len() - 4;
        ear.go_on(heard, beyond, framing)?;
        pieces.try_for_each(|piece| ear.hear(piece))?;
        Ok(ear.take())
    }

    #[test]
    fn the_next_head_is_heard_behind_any_body() {
        for step in 1..60 {
            for (framing, body) in [
                (Framing::Empty, ""),
                (Framing::Length(7), "GET / x"),
                (Framing::Chunked, "0\r\n\r\n"),
                (Framing::Chunked, "3\r\na\r\n\r\n0A ; x=\"y\"\r\n0123456789\r\n00\r\nA: b\r\nC:\r\n\r\n"),
            ] {
                let text = [body, "GET /next HTTP/1.1\r\n\r\n"].concat();
                let heard = behind(framing, text.as_bytes(), step).unwrap();
                assert_eq!(String::from_utf8(heard).unwrap(), "GET /next HTTP/1.1\r\n\r\n", "{step} {body}");
            }
        }
    }

    #[test]
    fn chunks_that_others_may_read_in_another_way_are_refused() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1 1\r\n",
            "1 \r\n",
            "1\n",
            "1\rx",
            ";\r\n",
            "1;a\n",
            "1;a\rb\r\n",
            "1;a\0\r\n",
            "00000000000000001\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na0\r\n",
            "0\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\nA: b\rc\r\n",
            "0\r\nA: b\0\r\n",
            "0\r\n A: b\r\n",
            "0\r\n: b\r\n",
            "0\r\nA: b\r\n c\r\n",
            "0\r\n\rx",
        ] {
            for step in [1, 99] {
                assert!(behind(Framing::Chunked, text.as_bytes(), step).is_err(), "{step} {text:?}");
            }
        }
    }
}
