//! HTTP/2 to instances: many requests at once on few connections (RFC 9113).

mod body;
mod exchange;
mod link;
mod links;
mod opening;
mod request;
mod sniff;
mod tunnel;
mod upload;

pub(super) use body::Incoming;
pub(super) use exchange::{Refused, begin};
pub(super) use link::{Link, Made, Slot, make};
pub(super) use links::Links;
pub(super) use opening::Opening;
pub(super) use request::is_websocket;
pub(super) use tunnel::Tunnel;
