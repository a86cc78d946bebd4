//! The head of a response: what of an instance's fields the client gets to see.

use super::spelling::Spelled;
use crate::net::field::{Field, Named, is_other_coding};
use crate::upstream::Fields;
use http::{HeaderMap, HeaderValue, header};

/// Checks what the upstream side leaves to us.
///
/// # Errors
/// The text says what is wrong.
pub(in crate::proxy) fn check_answer(fields: &Fields) -> Result<(), &'static str> {
    if fields.all(Field::TransferEncoding).any(is_other_coding) {
        return Err("a transfer coding other than chunked, unasked");
    }
    Ok(())
}

/// The fields that go on to the client. Hyper frames the body: what it needs for that goes into `headers`.
pub(in crate::proxy) fn to_client(fields: &Fields, headers: &mut HeaderMap) -> Spelled {
    let mut named = Named::default();
    fields.all(Field::Connection).for_each(|value| named.add(value));
    let chunked = fields.all(Field::TransferEncoding).next().is_some();
    let mut spelled = Spelled::with_room_for(fields);
    for (field, name, value) in fields.iter() {
        if field.is_hop_by_hop() || named.has(name) {
            continue;
        }
        match field {
            // A length beside a transfer coding means nothing, and must not go on (RFC 9112, section 6.3).
            Field::ContentLength if chunked => continue,
            Field::ContentLength if spelled.length => continue,
            Field::ContentLength => {
                spelled.length = true;
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.insert(header::CONTENT_LENGTH, value);
                }
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
    for (field, name, value) in fields.iter() {
        if !field.is_hop_by_hop() && field != Field::ContentLength {
            for part in [name, b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}
