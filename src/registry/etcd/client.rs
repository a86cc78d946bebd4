//! A client of a whole cluster: one member at a time, the next when one fails, a token that is renewed.

use super::EtcdSettings;
use super::auth::{Auth, Token};
use super::error::EtcdError;
use super::member::{Member, address, within};
use super::messages::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, RequestOpUnion, TxnRequest, TxnResponse,
};
use super::watch::{Watch, WatchRange};
use futures_util::{StreamExt, stream};
use prost::Message;
use std::time::Duration;

/// A client of a cluster. It connects when first used; dropping it closes the connection.
///
/// No call is tried twice, but for a token that had expired: an error leaves the client at the next member, and when
/// to try again is the caller's business. All calls are cancel-safe, in that the client stays usable.
#[derive(Debug)]
pub struct EtcdClient {
    settings: EtcdSettings,
    /// Which of the endpoints is in use.
    at: usize,
    member: Option<Member>,
    auth: Auth,
}

impl EtcdClient {
    pub fn new(settings: EtcdSettings) -> Self {
        let auth = Auth::new(settings.user.clone());
        Self { settings, at: 0, member: None, auth }
    }

    /// The member in use, or the next to be tried: scheme, host and port.
    pub fn member(&self) -> String {
        self.settings.endpoints.get(self.at).map(address).unwrap_or_default()
    }

    /// After a refusal of the password, or for want of its file: ends when the file holds another one. Cancel-safe.
    pub async fn mended(&self) {
        self.auth.mended().await;
    }

    /// Keys and values of one key or a range; linearizable.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] or [`EtcdError::Future`] when asked for a revision that cannot be had, and whatever
    /// befalls any call.
    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`EtcdError::LeaseLost`] if the lease is gone, and whatever befalls any call.
    pub async fn put(&mut self, request: PutRequest) -> Result<PutResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/Put", request).await
    }

    /// Removes one key or a range.
    ///
    /// # Errors
    /// Whatever befalls any call.
    pub async fn delete_range(
        &mut self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/DeleteRange", request).await
    }

    /// Writes one key if nobody has changed it since `mod_revision` (0: if it is not there); `false` if somebody has.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_unchanged(&mut self, request: PutRequest, mod_revision: i64) -> Result<bool, EtcdError> {
        let key = request.key.clone();
        self.unchanged(key, mod_revision, RequestOpUnion::Put(request)).await
    }

    /// Removes one key if nobody has changed it since `mod_revision`; `false` if somebody has.
    ///
    /// # Errors
    /// Whatever befalls any call.
    pub async fn delete_unchanged(&mut self, key: Vec<u8>, mod_revision: i64) -> Result<bool, EtcdError> {
        let request = DeleteRangeRequest { key: key.clone(), range_end: Vec::new() };
        self.unchanged(key, mod_revision, RequestOpUnion::DeleteRange(request)).await
    }

    async fn unchanged(
        &mut self,
        key: Vec<u8>,
        mod_revision: i64,
        operation: RequestOpUnion,
    ) -> Result<bool, EtcdError> {
        let request = TxnRequest {
            compare: vec![Compare::mod_revision(key, mod_revision)],
            success: vec![RequestOp { request: Some(operation) }],
        };
        let TxnResponse { succeeded } = self.unary("/etcdserverpb.KV/Txn", request).await?;
        Ok(succeeded)
    }

    /// A new lease, its time to live rounded up to whole seconds.
    ///
    /// # Errors
    /// Whatever befalls any call.
    pub async fn lease_grant(&mut self, ttl: Duration) -> Result<LeaseGrantResponse, EtcdError> {
        let ttl = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        self.unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl }).await
    }

    /// Renews a lease and gives its new time to live.
    ///
    /// # Errors
    /// [`EtcdError::LeaseLost`] if it is gone, and whatever befalls any call.
    pub async fn lease_keep_alive(&mut self, id: i64) -> Result<Duration, EtcdError> {
        let answer = self.beat(id).await;
        let ttl = self.heed(answer)?.ttl;
        match u64::try_from(ttl) {
            Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
            _ => Err(EtcdError::LeaseLost(format!("{}: lease {id:x} is gone", self.member()))),
        }
    }

    /// Ends a lease, and with it all its keys.
    ///
    /// # Errors
    /// [`EtcdError::LeaseLost`] if it was gone already, and whatever befalls any call.
    pub async fn lease_revoke(&mut self, id: i64) -> Result<(), EtcdError> {
        let LeaseRevokeResponse {} =
            self.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id }).await?;
        Ok(())
    }

    /// Opens a watch at the member in use, and waits until the member says that it stands.
    ///
    /// # Errors
    /// Whatever befalls any call. A start revision that is compacted shows in the first [`Watch::next`] only.
    pub async fn watch(&mut self, range: WatchRange) -> Result<Watch, EtcdError> {
        let mut renewed = false;
        loop {
            let opened = match self.ready().await {
                Ok((member, token)) => Watch::open(member, token.as_ref(), &range).await,
                Err(error) => Err(error),
            };
            if !renewed && self.may_renew(&opened) {
                renewed = true;
                continue;
            }
            return self.heed(opened);
        }
    }

    /// Draws the consequences of an error, also of a [`Watch`]'s: leaves the member, forgets the token.
    ///
    /// # Errors
    /// The same, but for a token that no user is there to renew: that is a refusal.
    pub fn heed<T>(&mut self, answer: Result<T, EtcdError>) -> Result<T, EtcdError> {
        match answer {
            Err(EtcdError::Unavailable(text)) => {
                self.member = None;
                self.at = (self.at + 1) % self.settings.endpoints.len().max(1);
                Err(EtcdError::Unavailable(text))
            }
            Err(EtcdError::Unauthenticated(text)) if !self.auth.renew() => {
                Err(EtcdError::Refused(format!("{text} (no user is configured)")))
            }
            other => other,
        }
    }

    async fn unary<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, EtcdError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut renewed = false;
        loop {
            let answer = match self.ready().await {
                Ok((member, token)) => member.unary(path, request.clone(), token.as_ref()).await,
                Err(error) => Err(error),
            };
            if !renewed && self.may_renew(&answer) {
                renewed = true;
                continue;
            }
            return self.heed(answer);
        }
    }

    /// One beat on a stream of its own: a lost answer can then never be taken for that to a later beat.
    async fn beat(&mut self, id: i64) -> Result<LeaseKeepAliveResponse, EtcdError> {
        let limit = self.settings.request_timeout;
        let (member, auth) = self.connected().await?;
        let token = match auth.token(member).await {
            Err(error @ EtcdError::Unavailable(_)) => return Err(error),
            // etcd 3.4 and 3.5 want none for a beat, and a lease that is kept is worth the try.
            token => token.unwrap_or_default(),
        };
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        // Our side stays open until the answer is there: its end would end the stream.
        let requests =
            stream::once(std::future::ready(LeaseKeepAliveRequest { id })).chain(stream::pending());
        let name = member.name().to_owned();
        let answer = async {
            let mut answers = member.stream(path, requests, token.as_ref(), true).await?;
            let answer = answers.message().await.map_err(|status| EtcdError::of_status(&name, &status))?;
            answer.ok_or_else(|| EtcdError::Unavailable(format!("{name}: closed the stream")))
        };
        within(limit, &name, answer).await
    }

    /// A connected member and the token for it.
    async fn ready(&mut self) -> Result<(&mut Member, Option<Token>), EtcdError> {
        let (member, auth) = self.connected().await?;
        let token = auth.token(member).await?;
        Ok((member, token))
    }

    /// A connected member, and who has the token for it.
    async fn connected(&mut self) -> Result<(&mut Member, &mut Auth), EtcdError> {
        let member = match self.member.take() {
            Some(member) => member,
            None => {
                let url = self.settings.endpoints.get(self.at);
                let url =
                    url.ok_or_else(|| EtcdError::Refused("no etcd endpoint is configured".to_owned()))?;
                Member::dial(url, &self.settings).await?
            }
        };
        Ok((self.member.insert(member), &mut self.auth))
    }

    fn may_renew<T>(&mut self, answer: &Result<T, EtcdError>) -> bool {
        matches!(answer, Err(EtcdError::Unauthenticated(_))) && self.auth.renew()
    }
}

/// The end of the range of all keys that begin with `prefix`: the prefix, its last byte one higher.
///
/// Bytes that cannot be higher are cut off; the prefix of all keys ends at `\0`, etcd's word for "no end".
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(higher) = last.checked_add(1) {
            end.push(higher);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        assert_eq!(prefix_end(b"svc/web/"), b"svc/web0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), [0]);
        assert_eq!(prefix_end(b""), [0]);
    }

    #[tokio::test]
    async fn without_a_member_there_is_a_sentence_and_no_panic() {
        let mut client = EtcdClient::new(EtcdSettings::new(Vec::new()));
        let error = client.range(RangeRequest::default()).await.unwrap_err();
        assert_eq!(error, EtcdError::Refused("no etcd endpoint is configured".into()));
    }
}
