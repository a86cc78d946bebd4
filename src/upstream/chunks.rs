//! Chunked bodies from an instance, read strictly (RFC 9112, section 7.1).

use super::head::Malformed;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

/// The longest line that gives a chunk's size, extensions included.
const MOST_LINE: usize = 4 << 10;
/// Bytes of all extensions of one body: nobody needs them, and they can hide a flood.
const MOST_EXTENSIONS: usize = 16 << 10;
/// Bytes of all trailers of one body.
const MOST_TRAILERS: usize = 16 << 10;
/// Trailer fields of one body.
const MOST_FIELDS: usize = 64;

/// Where in the body the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    extensions: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Bytes(u64),
    /// The line break after a chunk.
    Break,
    Trailers,
    End,
}

/// What comes next in the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Bytes),
    Trailers(HeaderMap),
    /// Not all of it has come yet.
    More,
    End,
}

impl Chunks {
    /// The last byte was taken.
    pub fn ended(&self) -> bool {
        self.state == State::End
    }

    /// Takes the first size off the front of `input`, if it is there: one that is none spoils the whole answer, of which
    /// nothing was passed on yet.
    pub fn begin(&mut self, input: &mut BytesMut) -> Result<(), Malformed> {
        if self.state == State::Size
            && let Some(size) = self.size(input)?
        {
            self.state = if size == 0 { State::Trailers } else { State::Bytes(size) };
        }
        Ok(())
    }

    /// Takes the next piece off the front of `input`.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self.state {
                State::Size => match self.size(input)? {
                    None => return Ok(Piece::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Bytes(size),
                },
                State::Bytes(_) if input.is_empty() => return Ok(Piece::More),
                State::Bytes(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - count as u64;
                    self.state = if left == 0 { State::Break } else { State::Bytes(left) };
                    let bytes = input.split_to(count).freeze();
                    self.finish_if_there(input);
                    return Ok(Piece::Bytes(bytes));
                }
                State::Break => {
                    if !self.line_break(input)? {
                        return Ok(Piece::More);
                    }
                }
                State::Trailers => {
                    let Some(trailers) = trailers(input)? else { return Ok(Piece::More) };
                    self.state = State::End;
                    return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                }
                State::End => return Ok(Piece::End),
            }
        }
    }

    /// Takes the end too if all of it came with the last chunk: the body need not be asked once more.
    fn finish_if_there(&mut self, input: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.state == State::Break && input.starts_with(END) {
            input.advance(END.len());
            self.state = State::End;
        }
    }

    /// The size of the next chunk, once its whole line is there.
    fn size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let Some(end) = input.iter().take(MOST_LINE).position(|byte| *byte == b'\n') else {
            return if input.len() < MOST_LINE {
                Ok(None)
            } else {
                Err(Malformed::Chunk("its size line is too long"))
            };
        };
        let line = input.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").ok_or(Malformed::Chunk("a line that ends without CR"))?;
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (size, rest) = line.split_at(digits);
        if rest.contains(&b'\r') || !matches!(rest.trim_ascii_start().first(), None | Some(b';')) {
            return Err(Malformed::Chunk("something else than an extension after its size"));
        }
        // Blanks that pad the size are none.
        self.extensions += rest.trim_ascii().len();
        if self.extensions > MOST_EXTENSIONS {
            return Err(Malformed::Chunk("too many extensions"));
        }
        let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        let size = size.ok_or(Malformed::Chunk("its size is no hexadecimal number of 64 bits"))?;
        input.advance(end + 1);
        Ok(Some(size))
    }

    /// `false` if it is not there yet.
    fn line_break(&mut self, input: &mut BytesMut) -> Result<bool, Malformed> {
        let there = input.get(..2).unwrap_or(input);
        if !b"\r\n".starts_with(there) {
            return Err(Malformed::Chunk("no line break after its bytes"));
        }
        let whole = there.len() == 2;
        if whole {
            input.advance(2);
            self.state = State::Size;
        }
        Ok(whole)
    }
}

/// The fields after the last chunk, once the empty line is there that ends them.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let parsed = httparse::parse_headers(input, &mut room).map_err(|_| Malformed::Trailers("malformed"))?;
    let Status::Complete((length, fields)) = parsed else {
        return if input.len() < MOST_TRAILERS { Ok(None) } else { Err(Malformed::Trailers("too long")) };
    };
    // The parser takes a LF alone for the end of a line, and others do not (RFC 9112, section 2.2).
    let mut lines = input.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
    if !lines.all(|line| line.ends_with(b"\r\n")) {
        return Err(Malformed::Trailers("a line that ends without CR"));
    }
    if length > MOST_TRAILERS {
        return Err(Malformed::Trailers("too long"));
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Malformed::Trailers("malformed")) };
        trailers.append(name, value);
    }
    input.advance(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body and its trailers, if it comes in pieces of `step` bytes; `None` if its end does not come.
    fn read(text: &[u8], step: usize) -> Result<Option<(Vec<u8>, HeaderMap)>, Malformed> {
        let (mut chunks, mut input) = (Chunks::default(), BytesMut::new());
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut pieces = text.chunks(step);
        loop {
            match chunks.take(&mut input)? {
                Piece::Bytes(bytes) => body.extend_from_slice(&bytes),
                Piece::Trailers(fields) => trailers = fields,
                Piece::End => return Ok(input.is_empty().then_some((body, trailers))),
                Piece::More => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read_in_pieces_of_any_size() {
        let text = b"4\r\nWiki\r\n6 ; a=\"b\"\r\npedia \r\nE;x\r\nin \r\n\r\nchunks.\r\n000\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n";
        for step in 1..=text.len() {
            let (body, trailers) = read(text, step).unwrap().unwrap();
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
        }
        for step in [1, 3, 99] {
            assert_eq!(read(b"1\r\na\r\n0\r\n\r\n", step).unwrap().unwrap().0, b"a");
        }
    }

    #[test]
    fn what_ends_early_never_ends_well() {
        let text = b"4\r\nWiki\r\n3;a\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(read(&text[..end], 99), Ok(None), "{end}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MOST_LINE));
        let many = format!("1;{}\r\na\r\n", "x".repeat(4000)).repeat(5);
        let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(MOST_TRAILERS));
        let bad = [
            "\r\na\r\n0\r\n\r\n",
            "g\r\na\r\n",
            "-1\r\na\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 1\r\na\r\n",
            "1\na\r\n",
            "1\ra\r\n",
            "1;\rx\r\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "10000000000000000\r\na\r\n",
            "0\r\nA b: c\r\n\r\n",
            "0\r\nA: c\n\r\n",
            "0\r\nA: c\r\n\n",
            "0\r\n: c\r\n\r\n",
            &long,
            &many,
        ];
        for text in bad {
            for step in [1, 999_999] {
                assert!(read(text.as_bytes(), step).is_err(), "{text:?}");
            }
        }
        assert!(read(trailers.as_bytes(), 1000).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
            let whole = read(&text, 999);
            prop_assert_eq!(whole.is_err(), read(&text, step).is_err());
        }

        #[test]
        fn any_body_comes_out_as_it_went_in(body in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..300, step in 1usize..300) {
            let mut text = Vec::new();
            for chunk in body.chunks(cut) {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(read(&text, step).unwrap().unwrap().0, body);
        }
    }
}
