//! Bytes that can be foretold, and a digest of them: shared by the instance and by the tests that check its answers.

use std::ops::Range;

/// The bytes at these offsets of an endless sequence; a lost, doubled or swapped block of 256 bytes shows in it.
pub fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(|offset| (offset ^ (offset >> 8) ^ (offset >> 16)).to_le_bytes()[0]).collect()
}

/// A 64-bit FNV-1a digest (draft-eastlake-fnv, section 2), taken piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Digest {
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, piece: &[u8]) {
        for byte in piece {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Sixteen hexadecimal digits.
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}
