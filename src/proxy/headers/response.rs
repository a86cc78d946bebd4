//! The head of a response: what of an instance's fields the client gets to see.

use super::spelling::Spelled;
use crate::net::field::{Field, Named, is_other_coding};
use crate::upstream::{Fields, Head};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Checks what the upstream side leaves to us.
///
/// # Errors
/// The text says what is wrong.
pub(in crate::proxy) fn check_answer(fields: &Fields) -> Result<(), &'static str> {
    let mut codings = fields.all(Field::TransferEncoding);
    if codings.next().is_some_and(is_other_coding) || codings.next().is_some() {
        return Err(
            "a transfer coding other than chunked, unasked, or more than one (RFC 9112, section 6.1)",
        );
    }
    Ok(())
}

/// The fields that go on to the client. Hyper frames the body: what it needs for that goes into `headers`. It knows the
/// length of a body that comes, but not of one that only HEAD would not bring (`bare`).
pub(in crate::proxy) fn to_client(head: &Head, bare: bool, headers: &mut HeaderMap) -> Spelled {
    let fields = &head.fields;
    let mut named = Named::default();
    fields.all(Field::Connection).for_each(|value| named.add(value));
    let chunked = fields.all(Field::TransferEncoding).next().is_some();
    // These never have a body, and must not say how long it is (RFC 9110, section 8.6).
    let bodiless = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
    let shared = |value: &[u8]| HeaderValue::from_maybe_shared(fields.share(value)).ok();
    let mut spelled = Spelled::with_room_for(fields);
    let (mut length, mut trailer, mut date) = (false, false, false);
    fields.write(spelled.text(), |field, name, value| {
        match field {
            _ if field.is_hop_by_hop() || named.has(name) => return false,
            // A length beside a transfer coding means nothing, and must not go on (RFC 9112, section 6.3).
            Field::ContentLength if chunked || bodiless || length => return false,
            Field::ContentLength => {
                length = true;
                if bare {
                    headers.extend(shared(value).map(|value| (header::CONTENT_LENGTH, value)));
                }
            }
            Field::Trailer => {
                trailer = true;
                if let Some(value) = shared(value) {
                    headers.append(header::TRAILER, value);
                }
            }
            Field::Date => date = true,
            _ => {}
        }
        true
    });
    // The version that was received (RFC 9110, section 7.6.3).
    let via: &[u8] = if head.old { b"via: 1.0 outrigger\r\n" } else { b"via: 1.1 outrigger\r\n" };
    spelled.text().extend_from_slice(via);
    spelled.knows(length, trailer, date);
    spelled
}

/// The fields of an interim response, and the empty line after them: it has no body and no say over the connection.
pub(in crate::proxy) fn interim_to_client(fields: &Fields, out: &mut Vec<u8>) {
    fields.write(out, |field, _, _| !field.is_hop_by_hop() && field != Field::ContentLength);
    out.extend_from_slice(b"\r\n");
}
