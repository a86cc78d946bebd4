//! Entrances for fuzz targets: what an instance may send.

use super::chunks::{Chunks, Piece};
use super::head::{Head, Length};
use bytes::{BufMut, BytesMut};

/// Reads responses until something is malformed or there are no more bytes, which come in pieces of `step`.
pub fn responses(text: &[u8], step: usize) {
    let (mut input, mut pieces) = (BytesMut::new(), text.chunks(step.max(1)));
    loop {
        let head = loop {
            match Head::take(&mut input) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(_) => return,
            }
            let Some(piece) = pieces.next() else { return };
            input.extend_from_slice(piece);
        };
        let mut out = Vec::new();
        head.fields.write(&mut out, |_, _, _| true);
        out.put_slice(b"\r\n");
        let again = BytesMut::from(&[b"HTTP/1.1 200 OK\r\n", &*out].concat()[..]);
        // Read again, what is passed on says the same, and no line of it ends in another way than with CR LF.
        let again = Head::take(&mut { again }).ok().flatten();
        let same = again.is_some_and(|again| again.fields.iter().eq(head.fields.iter()));
        assert!(same, "{out:?}");
        match head.body_length(false) {
            Ok(Length::Chunked) => {}
            Ok(Length::Known(length)) if length <= input.len() as u64 => {
                let _ = input.split_to(usize::try_from(length).unwrap_or_default());
                continue;
            }
            _ => return,
        }
        let mut chunks = Chunks::default();
        loop {
            match chunks.take(&mut input) {
                Ok(Piece::End | Piece::Trailers(_)) => break,
                Ok(Piece::Bytes(_)) => {}
                Ok(Piece::More) => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return,
                },
                Err(_) => return,
            }
        }
    }
}

/// How many bytes the chunked body takes that is at the front of the text, if the whole of it is there and good.
pub fn chunked(text: &[u8]) -> Option<usize> {
    let (mut chunks, mut input) = (Chunks::default(), BytesMut::from(text));
    loop {
        match chunks.take(&mut input) {
            Ok(Piece::End | Piece::Trailers(_)) => return Some(text.len() - input.len()),
            Ok(Piece::Bytes(_)) => {}
            Ok(Piece::More) | Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A few bytes away from two good ones.
    fn spoilt() -> impl Strategy<Value = Vec<u8>> {
        let good = b"HTTP/1.1 200 OK\r\nA:  b \r\nc:\r\nContent-Length: 3\r\n\r\nabc\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n";
        prop::collection::vec((0..good.len(), any::<u8>()), 0..4).prop_map(|changes| {
            let mut text = good.to_vec();
            changes.into_iter().for_each(|(at, byte)| text[at] = byte);
            text
        })
    }

    proptest! {
        #[test]
        fn entrances_take_anything(text in spoilt(), noise in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..200) {
            responses(&text, step);
            responses(&noise, step);
        }
    }
}
