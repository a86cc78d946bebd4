//! Which header fields go on, which stay here, and which are added.

mod ear;
mod host;
mod http2;
mod request;
mod response;
mod spelling;

#[cfg(test)]
mod tests;

pub(super) use ear::Ear;
pub(super) use http2::{from_stream, interim_to_stream, to_stream, trailers_to_stream};
pub(super) use request::{Caller, Head, Traits};
pub(super) use response::{check_answer, interim_to_client, to_client};
pub(super) use spelling::{Heard, Spelled};
