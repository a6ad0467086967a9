//! Endpoints and questions as they are sent to: what of a document can be prepared once, with its secrets at hand.

use super::{ATTEMPT, Client, Failure, Place};
use crate::authorization::{Authorization, Credentials};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use model::document::{
    ClientCredentials, Endpoint, EndpointAuthorization, Format, Poll, Secret as Reference,
};
use model::event::CloudEvent;
use model::id::TenantId;
use model::webhook::{DestinationError, WebhookId};
use std::fmt::Display;
use std::time::Duration;
use webhook_signature::{ID, KeyError, SIGNATURE, Secret, Signer, SigningKey, TIMESTAMP};

/// An event on its way to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) webhook_id: &'a WebhookId,
    /// Which attempt this is, from 1.
    pub(crate) attempt: u32,
    /// The event in structured form.
    pub(crate) content: &'a Bytes,
}

/// An endpoint, with everything that a request to it needs.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    place: Place,
    signer: Signer,
    authorization: Authorization,
    format: Format,
    timeout: Duration,
}

/// A source that is asked, with everything that a request to it needs.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    place: Place,
    authorization: Authorization,
    timeout: Duration,
}

/// Why there is no target. Its text holds no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// An address is none.
    #[error("`{0}` {1}")]
    Address(&'static str, DestinationError),
    /// A secret could not be had.
    #[error("`{0}` could not be had: {1}")]
    Secret(&'static str, String),
    /// A secret is no key.
    #[error("`{0}` {1}")]
    Key(&'static str, KeyError),
    /// A secret is no text, or none that a header can hold.
    #[error("`{0}` must be text that fits into a header")]
    Text(&'static str),
}

impl Client {
    /// Prepares an endpoint. Tokens and connections stay with the client, so this may be done again at any time.
    pub(crate) fn target<E: Display>(
        &self,
        endpoint: &Endpoint,
        reveal: &dyn Fn(&Reference) -> Result<Vec<u8>, E>,
    ) -> Result<Target, TargetError> {
        let secret = |field, reference| {
            Secret::parse(&text(field, reference, reveal)?)
                .map_err(|error| TargetError::Key(field, error))
        };
        let mut signer = Signer::new(secret("secret", &endpoint.secret)?);
        for previous in &endpoint.previous_secrets {
            let until = previous.until.as_second();
            signer = signer.and_until(secret("previous_secrets", &previous.secret)?, until);
        }
        if let Some(reference) = &endpoint.signing_key {
            let key = SigningKey::parse(&text("signing_key", reference, reveal)?);
            signer = signer.and_key(key.map_err(|error| TargetError::Key("signing_key", error))?);
        }
        Ok(Target {
            place: place("url", &endpoint.url, &endpoint.tenant)?,
            signer,
            authorization: self.authorization(
                endpoint.authorization.as_ref(),
                &endpoint.tenant,
                reveal,
            )?,
            format: endpoint.format,
            timeout: endpoint.timeout.0,
        })
    }

    /// Prepares a source that is asked on behalf of this tenant.
    pub(crate) fn question<E: Display>(
        &self,
        poll: &Poll,
        tenant: &TenantId,
        reveal: &dyn Fn(&Reference) -> Result<Vec<u8>, E>,
    ) -> Result<Question, TargetError> {
        Ok(Question {
            place: place("poll/url", &poll.url, tenant)?,
            authorization: self.authorization(poll.authorization.as_ref(), tenant, reveal)?,
            timeout: poll.timeout.0,
        })
    }

    fn authorization<E: Display>(
        &self,
        authorization: Option<&EndpointAuthorization>,
        tenant: &TenantId,
        reveal: &dyn Fn(&Reference) -> Result<Vec<u8>, E>,
    ) -> Result<Authorization, TargetError> {
        let Some(authorization) = authorization else { return Ok(Authorization::None) };
        if let Some(header) = &authorization.header {
            const FIELD: &str = "authorization/header";
            let value = text(FIELD, &header.secret, reveal)?;
            let name = HeaderName::try_from(&header.name).map_err(|_| TargetError::Text(FIELD))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| TargetError::Text(FIELD))?;
            value.set_sensitive(true);
            return Ok(Authorization::Header(name, value));
        }
        let Some(grant) = &authorization.oauth2 else { return Ok(Authorization::None) };
        let ClientCredentials { token_url, client_id, client_secret, scopes } = grant;
        let secret = text("authorization/oauth2/client_secret", client_secret, reveal)?;
        let place = place("authorization/oauth2/token_url", token_url, tenant)?;
        let credentials = Credentials { place, client_id, secret: &secret, scopes };
        Ok(Authorization::Token(self.tokens.source(&credentials)))
    }
}

impl Target {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The headers and the body of an attempt at this time: signed anew each time.
    pub(super) fn compose(
        &self,
        message: &Message<'_>,
        now: Timestamp,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let failed = |error: &dyn Display| Failure::Compose(error.to_string());
        let (mut headers, body) = match self.format {
            Format::Structured => {
                let mut headers = HeaderMap::with_capacity(10);
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(CloudEvent::STRUCTURED));
                (headers, message.content.clone())
            }
            Format::Binary => {
                CloudEvent::kept(message.content).map_err(|error| failed(&error))?.binary()
            }
        };
        let (id, at) = (message.webhook_id.as_str(), now.as_second());
        let signature = self.signer.sign(id, at, &body).map_err(|error| failed(&error))?;
        headers.insert(ID, HeaderValue::from_str(id).map_err(|error| failed(&error))?);
        headers.insert(TIMESTAMP, HeaderValue::from(at));
        let signature = HeaderValue::try_from(signature).map_err(|error| failed(&error))?;
        headers.insert(SIGNATURE, signature);
        headers.insert(ATTEMPT, HeaderValue::from(message.attempt));
        Ok((headers, body))
    }
}

impl Question {
    pub(super) fn place(&self, query: &[(&str, &str)]) -> Result<Place, DestinationError> {
        self.place.with_query(query)
    }

    pub(super) fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn place(field: &'static str, url: &str, tenant: &TenantId) -> Result<Place, TargetError> {
    Place::parse(url, tenant).map_err(|error| TargetError::Address(field, error))
}

fn text<E: Display>(
    field: &'static str,
    reference: &Reference,
    reveal: &dyn Fn(&Reference) -> Result<Vec<u8>, E>,
) -> Result<String, TargetError> {
    let bytes = reveal(reference).map_err(|error| TargetError::Secret(field, error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| TargetError::Text(field))
}
