//! What gRPC says in HTTP fields: deadlines, statuses and messages (grpc/doc/PROTOCOL-HTTP2.md, statuscodes.md).

use crate::model::Outcome;
use crate::net::field::Field;
use crate::upstream::Fields;
use http::HeaderMap;
use std::fmt::Write;
use std::time::Duration;

/// The instance cannot take the call just now; it is for the caller to try again, or for us.
const UNAVAILABLE: &[u8] = b"14";

/// Other statuses that say that the instance itself has failed: INTERNAL and DATA_LOSS. Not UNKNOWN, which is what
/// many servers make of every error of an application, and not RESOURCE_EXHAUSTED, which is mostly a quota of the caller's.
const FAILURES: [&[u8]; 2] = [b"13", b"15"];

/// Digits of a deadline.
const MOST_DIGITS: usize = 8;

/// Whether a content type is gRPC's: with any message format, but not gRPC-Web, whose answers look otherwise.
pub(super) fn is_content_type(value: &[u8]) -> bool {
    let Some((name, rest)) = value.split_at_checked(b"application/grpc".len()) else { return false };
    name.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The value of `grpc-timeout`; nothing if it is none.
pub(super) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MOST_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A request's head with what is left of its deadline.
pub(super) fn with_timeout(head: &[u8], left: Duration) -> Vec<u8> {
    const END: &[u8] = b"\r\n";
    let fields = head.strip_suffix(END).unwrap_or(head);
    let most = 10_u128.pow(8);
    // As fine as eight digits allow.
    let (count, unit) = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (left.as_secs().into(), 'S')]
        .into_iter()
        .find(|(count, _)| *count < most)
        .unwrap_or((u128::from(left.as_secs() / 3600).min(most - 1), 'H'));
    [fields, format!("grpc-timeout: {count}{unit}\r\n").as_bytes(), END].concat()
}

/// Whether the answer says in its head that the instance is unavailable: no message came, and none will.
pub(super) fn is_unavailable(fields: &Fields) -> bool {
    fields.all(Field::GrpcStatus).next() == Some(UNAVAILABLE)
}

/// What an answer counts as that says in its head that the instance failed.
pub(super) fn failed(fields: &Fields) -> Option<Outcome> {
    fields.all(Field::GrpcStatus).next().and_then(failure)
}

/// The same if it says so after its messages.
pub(super) fn failed_at_last(trailers: &HeaderMap) -> Option<Outcome> {
    trailers.get("grpc-status").and_then(|status| failure(status.as_bytes()))
}

fn failure(status: &[u8]) -> Option<Outcome> {
    match status {
        UNAVAILABLE => Some(Outcome::Unavailable),
        status => FAILURES.contains(&status).then_some(Outcome::ServerError),
    }
}

/// A text as `grpc-message` has it: what is not printable ASCII, and the percent sign, in codes.
pub(super) fn message(text: &str) -> String {
    let mut coded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => coded.push(byte.into()),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(coded, "%{byte:02X}");
            }
        }
    }
    coded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deadlines_have_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("004m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0n", Some(Duration::ZERO)),
            ("123456789S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_content_type(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(message("a b: 100 %\n\u{e9}~"), "a b: 100 %25%0A%C3%A9~");
    }

    proptest! {
        #[test]
        fn what_is_left_is_passed_on_and_never_more(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let head = with_timeout(b"POST / HTTP/1.1\r\nhost: a\r\n\r\n", left);
            let text = String::from_utf8(head).unwrap();
            let value = text.strip_prefix("POST / HTTP/1.1\r\nhost: a\r\ngrpc-timeout: ").unwrap();
            let said = timeout(value.strip_suffix("\r\n\r\n").unwrap().as_bytes()).unwrap();
            prop_assert!(said <= left);
            prop_assert!(left - said < left / 1000 + Duration::from_micros(1) || left > Duration::from_secs(99_999_999));
        }
    }
}
