//! What can go wrong with etcd, sorted by what has to be done about it.

use std::error::Error;
use tonic::{Code, Status};

/// A call without an answer, or a watch that ended. The texts name the member and what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// This member does not answer or cannot serve now; another one may.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody must mend something first: a password, a permission, a certificate.
    #[error("{0}")]
    Refused(String),
    /// The token is missing, unknown or has expired.
    #[error("{0}")]
    Unauthenticated(String),
    /// The request was understood and is not wanted; every member would say so.
    #[error("{0}")]
    Rejected(String),
    /// The revision asked for has been compacted away.
    #[error("{0}")]
    Compacted(String),
    /// The revision asked for lies in the future.
    #[error("{0}")]
    Future(String),
    /// The lease has expired, was revoked, or never was.
    #[error("{0}")]
    LeaseLost(String),
}

impl EtcdError {
    /// Reads a call's status.
    pub(super) fn of_status(member: &str, status: &Status) -> Self {
        Self::sort(member, status.code(), &chain(status, status.message()))
    }

    /// Reads the reason in a canceled watch. Versions differ in whether they put a code into the text.
    pub(super) fn of_cancel(member: &str, reason: &str) -> Self {
        Self::sort(member, Code::Unknown, if reason.is_empty() { "watch canceled" } else { reason })
    }

    /// The texts are those of etcd's `api/v3rpc/rpctypes/error.go`; they have been stable since 3.0, while codes of
    /// the same error differ between calls.
    fn sort(member: &str, code: Code, said: &str) -> Self {
        let text = format!("{member}: {said}");
        let says = |part: &str| said.contains(part);
        if says("invalid auth token") || says("auth store is old") || says("user name is empty") {
            return Self::Unauthenticated(text);
        }
        if says("permission denied") || says("authentication failed") || says("PermissionDenied") {
            return Self::Refused(text);
        }
        if says("has been compacted") {
            return Self::Compacted(text);
        }
        if says("is a future revision") {
            return Self::Future(text);
        }
        if says("lease not found") {
            return Self::LeaseLost(text);
        }
        match code {
            Code::Unauthenticated => Self::Unauthenticated(text),
            Code::PermissionDenied => Self::Refused(text),
            Code::InvalidArgument | Code::ResourceExhausted | Code::NotFound => Self::Rejected(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// An error's text followed by the innermost cause, which is the one that names the mend.
pub(super) fn chain(error: &dyn Error, text: &str) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(Error::source) {
        cause = Some(inner);
    }
    match cause.map(ToString::to_string) {
        Some(inner) if text.is_empty() || text == "transport error" => inner,
        Some(inner) if !text.contains(&inner) => format!("{text}: {inner}"),
        _ if text.is_empty() => "no reason given".to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_the_same_with_and_without_a_code_in_its_text() {
        for reason in [
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            "etcdserver: invalid auth token",
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
        ] {
            let error = EtcdError::of_cancel("m", reason);
            assert!(matches!(error, EtcdError::Unauthenticated(_)), "{error:?}");
        }
        for reason in
            ["rpc error: code = PermissionDenied desc = etcdserver: permission denied", "permission denied"]
        {
            assert!(matches!(EtcdError::of_cancel("m", reason), EtcdError::Refused(_)));
        }
        assert_eq!(EtcdError::of_cancel("m", ""), EtcdError::Unavailable("m: watch canceled".into()));
        assert!(matches!(EtcdError::of_cancel("m", "etcdserver: no leader"), EtcdError::Unavailable(_)));
    }

    #[test]
    fn what_every_member_would_say_is_no_reason_to_leave_one() {
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert!(matches!(EtcdError::of_status("m", &full), EtcdError::Rejected(_)));
        let gone = Status::not_found("etcdserver: requested lease not found");
        assert!(matches!(EtcdError::of_status("m", &gone), EtcdError::LeaseLost(_)));
        let large = Status::out_of_range("decoded message length too large");
        assert!(matches!(EtcdError::of_status("m", &large), EtcdError::Unavailable(_)));
    }
}
