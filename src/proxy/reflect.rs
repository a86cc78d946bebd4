//! The answer to a request that may go no further (RFC 9110, section 7.6.2): to OPTIONS, that we are here; to TRACE, the
//! request as it came (section 9.3.8), without what is nobody else's business.

use super::relay::ResponseBody;
use http::{HeaderName, HeaderValue, Method, Response, header, request};

/// Who may read the answer need not be who sent the request.
const SECRETS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
];

/// The whole response.
pub(super) fn reflect(parts: &request::Parts) -> Response<ResponseBody> {
    if parts.method != Method::TRACE {
        return Response::new(ResponseBody::full(String::new()));
    }
    let mut text = format!("{} {} {:?}\r\n", parts.method, parts.uri, parts.version);
    for (name, value) in parts.headers.iter().filter(|(name, _)| !SECRETS.contains(name)) {
        for part in [name.as_str(), ": ", &String::from_utf8_lossy(value.as_bytes()), "\r\n"] {
            text.push_str(part);
        }
    }
    text.push_str("\r\n");
    let mut response = Response::new(ResponseBody::full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("message/http"));
    response
}
