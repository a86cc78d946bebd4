//! Frames of HTTP/2 (RFC 9113, section 4.1) as they come.

use crate::Outcome;

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RESET: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;

pub const END_STREAM: u8 = 0x1;
/// The same bit, of SETTINGS and PING.
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// One frame.
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first one if it is complete, and what follows it.
    pub fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[a, b, c, kind, flags, d, e, f, g], rest) = bytes.split_first_chunk()?;
        let (payload, rest) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)?;
        let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
        Some((Self { kind, flags, stream, payload }, rest))
    }

    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and priority.
    pub fn content(&self) -> Outcome<&'a [u8]> {
        let mut content = self.payload;
        if self.is(PADDED) {
            let (padding, rest) = content.split_first().ok_or("a padded frame without padding")?;
            let end = rest.len().checked_sub(usize::from(*padding)).ok_or("more padding than frame")?;
            content = rest.get(..end).unwrap_or_default();
        }
        if self.kind == HEADERS && self.is(PRIORITY) {
            content = content.get(5..).ok_or("a priority that is too short")?;
        }
        Ok(content)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_once_they_are_whole_and_without_their_padding() {
        let bytes = b"\x00\x00\x05\x00\x09\x00\x00\x00\x03\x02ab\x00\x00rest";
        assert!((0..14).all(|length| Frame::first(&bytes[..length]).is_none()));
        let (frame, rest) = Frame::first(bytes).unwrap();
        assert_eq!((frame.stream, frame.content().unwrap(), rest), (3, &b"ab"[..], &b"rest"[..]));
        assert!(frame.is(END_STREAM) && !frame.is(END_HEADERS));
    }
}
