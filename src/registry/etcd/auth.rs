//! Password to token, seldom: each authentication costs the member a slow hash.

use super::error::EtcdError;
use super::member::Member;
use super::messages::{AuthenticateRequest, AuthenticateResponse};
use crate::registry::Credential;
use crate::telemetry::Secret;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

pub(super) type Token = MetadataValue<Ascii>;

/// Between two looks at the password's file.
const LOOK: Duration = Duration::from_secs(1);
/// A refused password is not tried again for this long, unless it has changed.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

/// The user, and the token that all members take in its place.
#[derive(Debug)]
pub(super) struct Auth {
    user: Option<(String, Credential)>,
    token: State,
    refusal: Option<Refusal>,
}

#[derive(Debug)]
enum State {
    /// None yet, or the last one was not taken.
    Missing,
    /// The cluster has authentication switched off, or no user is configured.
    Needless,
    Held(Token),
}

#[derive(Debug)]
struct Refusal {
    at: Instant,
    password: Secret,
    text: String,
}

impl Auth {
    pub(super) fn new(user: Option<(String, Credential)>) -> Self {
        let token = if user.is_some() { State::Missing } else { State::Needless };
        Self { user, token, refusal: None }
    }

    /// The token to send with a call, if any; asks `member` for one when it is missing.
    pub(super) async fn token(&mut self, member: &mut Member) -> Result<Option<Token>, EtcdError> {
        if let (State::Missing, Some((name, credential))) = (&self.token, &self.user) {
            let password = read(credential).await?;
            if let Some(refusal) = &self.refusal
                && refusal.at.elapsed() < REFUSAL_HOLDS
                && refusal.password == password
            {
                return Err(EtcdError::Refused(refusal.text.clone()));
            }
            let request = AuthenticateRequest { name: name.clone(), password: password.reveal().to_owned() };
            match member.unary("/etcdserverpb.Auth/Authenticate", request, None).await {
                Ok(AuthenticateResponse { token }) => {
                    let mut token = Token::try_from(token).map_err(|_| {
                        EtcdError::Unavailable(format!("{}: sent an unusable token", member.name()))
                    })?;
                    token.set_sensitive(true);
                    self.token = State::Held(token);
                    self.refusal = None;
                }
                Err(EtcdError::Unavailable(text)) if text.contains("authentication is not enabled") => {
                    self.token = State::Needless;
                }
                Err(EtcdError::Refused(text) | EtcdError::Rejected(text)) => {
                    let text = format!("{text} (user {name:?})");
                    self.refusal = Some(Refusal { at: Instant::now(), password, text: text.clone() });
                    return Err(EtcdError::Refused(text));
                }
                Err(error) => return Err(error),
            }
        }
        match &self.token {
            State::Held(token) => Ok(Some(token.clone())),
            State::Missing | State::Needless => Ok(None),
        }
    }

    /// After a refusal for want of a right password: ends when its file holds another one.
    pub(super) async fn mended(&self) {
        let (State::Missing, Some((_, credential @ Credential::File(_)))) = (&self.token, &self.user) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK).await;
            let refused = self.refusal.as_ref().map(|refusal| &refusal.password);
            if read(credential).await.is_ok_and(|password| Some(&password) != refused) {
                return;
            }
        }
    }

    /// The token was not taken; `true` if asking for a new one may help.
    pub(super) fn renew(&mut self) -> bool {
        if self.user.is_some() {
            self.token = State::Missing;
        }
        self.user.is_some()
    }
}

async fn read(credential: &Credential) -> Result<Secret, EtcdError> {
    match credential {
        Credential::Text(secret) => Ok(secret.clone()),
        Credential::File(path) => match tokio::fs::read_to_string(path).await {
            Ok(text) => Ok(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(e) => Err(EtcdError::Refused(format!("cannot read the password in {}: {e}", path.display()))),
        },
    }
}
