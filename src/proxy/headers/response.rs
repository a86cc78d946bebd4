//! The head of a response: what of an instance's fields the client gets to see.

use super::field::{Field, Named, is_other_coding};
use super::spelling::Spelled;
use crate::upstream::Fields;
use http::{HeaderMap, HeaderValue, header};

/// Checks what the upstream side leaves to us.
///
/// # Errors
/// The text says what is wrong.
pub(in crate::proxy) fn check_answer(fields: &Fields) -> Result<(), &'static str> {
    let other = fields
        .iter()
        .any(|(name, value)| Field::of(name) == Field::TransferEncoding && is_other_coding(value));
    if other { Err("a transfer coding other than chunked, unasked") } else { Ok(()) }
}

/// The fields that go on to the client. Hyper frames the body: what it needs for that goes into `headers`.
pub(in crate::proxy) fn to_client(fields: &Fields, headers: &mut HeaderMap) -> Spelled {
    let mut named = Named::default();
    let mut chunked = false;
    for (name, value) in fields.iter() {
        match Field::of(name) {
            Field::Connection => named.add(value),
            Field::TransferEncoding => chunked = true,
            _ => {}
        }
    }
    let mut spelled = Spelled::with_room_for(fields);
    for (name, value) in fields.iter() {
        let field = Field::of(name);
        if field.is_hop_by_hop() || named.has(name) {
            continue;
        }
        match field {
            // A length beside a transfer coding means nothing, and must not go on (RFC 9112, section 6.3).
            Field::ContentLength if chunked => continue,
            Field::ContentLength if spelled.length => continue,
            Field::ContentLength => {
                spelled.length = true;
                headers
                    .extend(HeaderValue::from_bytes(value).ok().map(|value| (header::CONTENT_LENGTH, value)));
            }
            Field::Trailer => {
                spelled.trailer = true;
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(header::TRAILER, value);
                }
            }
            Field::Date => spelled.date = true,
            _ => {}
        }
        spelled.push(name, value);
    }
    spelled
}

/// The fields of an interim response, and the empty line after them: it has no body and no say over the connection.
pub(in crate::proxy) fn interim_to_client(fields: &Fields, out: &mut Vec<u8>) {
    for (name, value) in fields.iter() {
        let field = Field::of(name);
        if !field.is_hop_by_hop() && field != Field::ContentLength {
            for part in [name, b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}
