//! How field names are spelled. Their case means nothing (RFC 9110, section 5.1), but old peers may think otherwise,
//! and hyper forgets it: names come and go as they were sent because of what is done here, and only the names.

use crate::net::field::Field;
use crate::upstream::Fields;
use memchr::memchr;

/// Lines that are kept track of; names of later ones are in lower case.
const MOST_LINES: u32 = 128;

/// Room for the fields of ours in a response.
const OURS: usize = 32;

/// The bytes of a request as they came, from the first one on; maybe more than its head, maybe nothing.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Heard<'a>(pub &'a [u8]);

/// Finds the names of one request's fields, and sees on the way what hyper does not tell: it takes a bare LF for the end
/// of a line, and drops a length that is said twice or beside a transfer coding.
#[derive(Debug)]
pub(super) struct Names<'a> {
    /// The request line with its end; nothing if nothing was heard.
    first: &'a [u8],
    /// From the first field on.
    fields: &'a [u8],
    /// From the line after the last one that was found, and its number.
    next: &'a [u8],
    line: u32,
    /// Lines that were found.
    found: u128,
    /// Where among the fields the last of them stands that reads exactly as we would write it.
    whole: Option<(usize, usize)>,
    /// Some line ended in LF alone.
    bare: bool,
}

impl<'a> Heard<'a> {
    pub(super) fn names(self) -> Names<'a> {
        // Empty lines before a request are no part of it (RFC 9112, section 2.2).
        let blank = self.0.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let text = self.0.get(blank..).unwrap_or_default();
        let mut names =
            Names { first: text, fields: b"", next: b"", line: 0, found: 0, whole: None, bare: false };
        names.fields = names.after_line(text);
        names.next = names.fields;
        names.first = text.get(..text.len() - names.fields.len()).unwrap_or_default();
        names
    }
}

impl<'a> Names<'a> {
    /// The request line with its end, as it came; nothing if nothing was heard.
    pub fn first_line(&self) -> &'a [u8] {
        self.first
    }

    /// What was heard after the head, once all of its `fields` were asked for.
    ///
    /// # Errors
    /// If the head was not what hyper took it for. The text says what is wrong.
    pub fn after_head(&mut self, fields: usize) -> Result<&'a [u8], &'static str> {
        if self.first.is_empty() {
            return Ok(b"");
        }
        let (mut rest, mut lines) = (self.next, self.line as usize);
        if lines != fields || !matches!(rest.first(), Some(b'\r' | b'\n')) {
            // The last one that was asked for was not the last one that came.
            (rest, lines) = (self.fields, 0);
            while !matches!(rest.first(), None | Some(b'\r' | b'\n')) {
                rest = self.after_line(rest);
                lines += 1;
            }
        }
        match rest.strip_prefix(b"\r\n") {
            Some(_) if lines != fields => {
                Err("more than one Content-Length, or one beside Transfer-Encoding (RFC 9112, section 6.3)")
            }
            Some(beyond) if !self.bare => Ok(beyond),
            _ => Err("a line that ends in LF without CR (RFC 9112, section 2.2)"),
        }
    }

    /// As [`Self::of`], and looks whether the whole line may be kept: mostly it may, and its end is known then.
    pub fn of_field<'b>(&mut self, name: &'b str, value: &[u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        self.whole = None;
        let Some((spelled, after)) = reads(self.next, name, value) else { return self.of(name) };
        let place = |rest: &[u8]| self.fields.len() - rest.len();
        self.whole = Some((place(self.next), place(after)));
        self.found |= 1_u128.checked_shl(self.line).unwrap_or_default();
        self.next = after;
        self.line += 1;
        spelled
    }

    /// Where the line of the field that was asked for last stands in [`Self::fields`], if it reads `Name: value`.
    pub fn whole(&self) -> Option<(usize, usize)> {
        self.whole
    }

    /// All lines of the head after the first.
    pub fn fields(&self) -> &'a [u8] {
        self.fields
    }

    /// `name` as it was spelled. Mostly fields are asked for in the order in which they came.
    pub fn of<'b>(&mut self, name: &'b str) -> &'b [u8]
    where
        'a: 'b,
    {
        if let Some(spelled) = starts_with(self.next, name) {
            self.found |= 1_u128.checked_shl(self.line).unwrap_or_default();
            self.next = self.after_line(self.next);
            self.line += 1;
            return spelled;
        }
        let (mut rest, mut line) = (self.fields, 0);
        while line < MOST_LINES && !matches!(rest.first(), None | Some(b'\r' | b'\n')) {
            let bit = 1_u128 << line;
            if self.found & bit == 0
                && let Some(spelled) = starts_with(rest, name)
            {
                self.found |= bit;
                (self.next, self.line) = (self.after_line(rest), line + 1);
                return spelled;
            }
            rest = self.after_line(rest);
            line += 1;
        }
        name.as_bytes()
    }

    fn after_line(&mut self, text: &'a [u8]) -> &'a [u8] {
        let Some(end) = memchr(b'\n', text) else { return b"" };
        self.bare |= text.get(end.wrapping_sub(1)) != Some(&b'\r');
        text.get(end + 1..).unwrap_or_default()
    }
}

/// The name at the front of the text, if it is this one.
fn starts_with<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (spelled, rest) = text.split_at_checked(name.len())?;
    (rest.first() == Some(&b':') && spelled.eq_ignore_ascii_case(name.as_bytes())).then_some(spelled)
}

/// The name at the front of the text and what comes after the line, if the line has this name and value and is written
/// as we write it.
fn reads<'a>(text: &'a [u8], name: &str, value: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (spelled, rest) = text.split_at_checked(name.len())?;
    let after = rest.strip_prefix(b": ")?.strip_prefix(value)?.strip_prefix(b"\r\n")?;
    spelled.eq_ignore_ascii_case(name.as_bytes()).then_some((spelled, after))
}

fn after_line(text: &[u8]) -> &[u8] {
    memchr(b'\n', text).and_then(|end| text.get(end + 1..)).unwrap_or_default()
}

/// Fields of a response that go to the client as they came, past hyper.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Spelled {
    text: Vec<u8>,
    /// Which of the fields that hyper writes are among them.
    length: bool,
    trailer: bool,
    date: bool,
}

impl Spelled {
    pub(super) fn with_room_for(fields: &Fields) -> Self {
        Self { text: Vec::with_capacity(fields.size() + OURS), ..Self::default() }
    }

    /// Where they are written to, one line each.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Which of the fields that hyper writes are among them.
    pub(super) fn knows(&mut self, length: bool, trailer: bool, date: bool) {
        (self.length, self.trailer, self.date) = (length, trailer, date);
    }

    /// Writes a head to `out`: the status line as `hyper` wrote it, these fields, then those that only it knows.
    /// Interim responses before it stay as they are.
    pub fn complete(&self, hyper: &[u8], out: &mut Vec<u8>) {
        let mut rest = hyper;
        while !rest.starts_with(b"HTTP/1.")
            || rest.starts_with(b"HTTP/1.1 1") && !rest.starts_with(b"HTTP/1.1 101")
        {
            let (interim, head) = rest.split_at(end_of_head(rest));
            out.extend_from_slice(interim);
            rest = head;
            if interim.is_empty() {
                break;
            }
        }
        let (status_line, mut rest) = rest.split_at(rest.len() - after_line(rest).len());
        out.extend_from_slice(status_line);
        out.extend_from_slice(&self.text);
        loop {
            let (line, after) = rest.split_at(rest.len() - after_line(rest).len());
            if line.len() <= 2 {
                break;
            }
            let name = memchr(b':', line).and_then(|end| line.get(..end)).unwrap_or_default();
            let known = match Field::of(name) {
                Field::ContentLength => self.length,
                Field::Trailer => self.trailer,
                Field::Date => self.date,
                _ => false,
            };
            if !known {
                out.extend_from_slice(line);
            }
            rest = after;
        }
        // The empty line, and whatever may come after it.
        out.extend_from_slice(rest);
    }
}

/// Where the first head of the text ends; 0 if it does not.
fn end_of_head(text: &[u8]) -> usize {
    memchr::memmem::find(text, b"\r\n\r\n").map_or(0, |at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_order_out_of_order_and_repeated() {
        let text = b"GET / HTTP/1.1\r\nHOST: h\r\nX-Camel: 1\r\nCookie: a\r\ncookie: b\r\nX-CAMEL: 2\r\n\r\nx-Body: 1\r\n";
        let mut names = Heard(text).names();
        for (asked, spelled) in [
            ("host", "HOST"),
            ("x-camel", "X-Camel"),
            ("x-camel", "X-CAMEL"),
            ("cookie", "Cookie"),
            ("cookie", "cookie"),
            ("cookie", "cookie"),
            ("x-body", "x-body"),
            ("x-other", "x-other"),
        ] {
            assert_eq!(names.of(asked), spelled.as_bytes(), "{asked}");
        }
    }

    #[test]
    fn lines_that_are_written_as_we_do_are_known_whole() {
        let text = b"GET / HTTP/1.1\r\nHOST: h\r\nA:1\r\nB:  2\r\nC: 3 \r\nD: \r\nE: 5\nF: 6\r\nG: 7\r\n\r\n";
        let mut names = Heard(text).names();
        for (name, value, spelled, whole) in [
            ("host", "h", "HOST", Some("HOST: h\r\n")),
            ("a", "1", "A", None),
            ("b", "2", "B", None),
            ("c", "3", "C", None),
            ("d", "", "D", Some("D: \r\n")),
            ("e", "5", "E", None),
            ("g", "7", "G", None),
            ("f", "6", "F", None),
        ] {
            assert_eq!(names.of_field(name, value.as_bytes()), spelled.as_bytes(), "{name}");
            let line = names.whole().map(|(from, to)| names.fields()[from..to].to_vec());
            assert_eq!(line.as_deref(), whole.map(str::as_bytes), "{name}");
        }
        assert!(names.after_head(8).is_err(), "a bare LF is seen all the same");
    }

    #[test]
    fn without_the_bytes_names_are_in_lower_case() {
        for text in [&b""[..], b"GET", b"GET / HTTP/1.1\r\n", b"\r\n\r\n", b"x\nHos"] {
            assert_eq!(Heard(text).names().of("host"), b"host");
        }
        let many = format!("GET / HTTP/1.1\r\n{}LAST: 1\r\n\r\n", "A: 1\r\n".repeat(200));
        let mut names = Heard(many.as_bytes()).names();
        assert_eq!(names.of("last"), b"last");
        assert_eq!(names.of("a"), b"A");
    }

    /// What is behind the head, when hyper tells of these fields.
    fn behind<'a>(text: &'a [u8], told: &[&str]) -> Result<&'a [u8], &'static str> {
        let mut names = Heard(text).names();
        for name in told {
            names.of(name);
        }
        names.after_head(told.len())
    }

    #[test]
    fn what_is_behind_a_head_is_found_in_whatever_order_its_fields_are_asked_for() {
        let text = b"\r\nGET / HTTP/1.1\r\nA: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n\r\nmore";
        for told in [["a", "b", "a", "c"], ["a", "a", "b", "c"], ["c", "b", "a", "a"]] {
            assert_eq!(behind(text, &told), Ok(&b"more"[..]), "{told:?}");
        }
        assert_eq!(behind(b"GET / HTTP/1.1\r\n\r\n", &[]), Ok(&b""[..]));
        assert_eq!(behind(b"", &["a"]), Ok(&b""[..]), "nothing was heard");
    }

    #[test]
    fn heads_that_hyper_has_read_too_kindly_are_refused() {
        for text in [
            "GET / HTTP/1.1\nA: 1\r\nB: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\nB: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\r\nB: 2\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\n\n",
            "GET / HTTP/1.1\nA: 1\nB: 2\n\n",
            "GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nB: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\r\nA: 1\r\nB: 2\r\n\r\n",
        ] {
            for told in [["a", "b"], ["b", "a"]] {
                assert!(behind(text.as_bytes(), &told).is_err(), "{text:?} {told:?}");
            }
        }
    }

    #[test]
    fn a_head_is_completed_with_the_fields_that_hyper_does_not_know() {
        let text = b"Content-Length: 3\r\nX-Camel: caf\xe9\r\nDATE: today\r\n";
        let spelled = Spelled { text: text.to_vec(), length: true, trailer: false, date: true };
        let head =
            b"HTTP/1.1 200 All Right\r\ncontent-length: 3\r\nconnection: close\r\ndate: now\r\n\r\nabc";
        let whole = b"HTTP/1.1 200 All Right\r\nContent-Length: 3\r\nX-Camel: caf\xe9\r\nDATE: today\r\nconnection: close\r\n\r\nabc";
        let complete = |head: &[u8]| {
            let mut out = Vec::new();
            spelled.complete(head, &mut out);
            out
        };
        assert_eq!(complete(head), whole);
        for interim in [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"ntinue\r\n\r\n"] {
            assert_eq!(complete(&[interim, head].concat()), [interim, whole].concat());
        }
    }
}
