//! The seal on stored answers: put on their way into a store that outlives the process, broken on their way out.
//!
//! Invariants: where a master key is configured, no store that outlives the process is handed headers or body of an answer in
//! clear, the `Location` of one that is not retained included; what can't be opened is an answer that was not retained, never
//! garbage. What was kept before there was a key stays readable.

use super::{AnyLedger, LedgerStanding};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use model::id::TenantId;
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Fence, Found, Key, Ledger, RecordKey, SealedResponse, Settled,
    StoredResponse,
};
use model::port::StoreError;
use store::seal::MasterKeys;

/// A store of idempotency records that keeps answers sealed.
pub struct SealingLedger {
    store: AnyLedger,
    keys: MasterKeys,
}

impl SealingLedger {
    /// Seals under the first of these keys, if there is one.
    pub fn new(store: AnyLedger, keys: MasterKeys) -> Self {
        Self { store, keys }
    }

    /// Where records are kept, and how that is.
    pub fn standing(&self) -> LedgerStanding {
        self.store.standing()
    }

    /// Makes ready what routes that want replicas need.
    pub fn prepare_replicas(&self) {
        self.store.prepare_replicas();
    }

    /// Forgets what expired in process.
    pub fn sweep(&self, now: i64) {
        self.store.sweep(now);
    }

    fn seals(&self) -> bool {
        self.keys.can_seal() && !matches!(self.store, AnyLedger::Memory(_))
    }

    fn sealed(&self, key: &RecordKey, answer: Answer) -> Answer {
        let status = answer.status();
        let (response, location) = match answer {
            Answer::Retained(response) => {
                let location = response.location().cloned();
                (Some(response), location)
            }
            Answer::NotRetained { location: Some(location), .. } => (None, Some(location)),
            Answer::Sealed(_) | Answer::NotRetained { location: None, .. } => return answer,
        };
        let seal = |part: Part, bytes: Vec<u8>| {
            self.keys.seal_bytes(&part.context(key, status), bytes).map(Bytes::from)
        };
        let bytes = response.map(|response| seal(Part::Whole, response.to_bytes())).transpose();
        let location = location.map(|place| seal(Part::Location, place.as_bytes().to_vec()));
        match (bytes, location.transpose()) {
            (Ok(bytes), Ok(location)) => Answer::Sealed(SealedResponse { status, bytes, location }),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "an answer can't be sealed and is not retained");
                Answer::NotRetained { status, location: None }
            }
        }
    }

    fn opened(&self, key: &RecordKey, sealed: SealedResponse) -> Answer {
        let SealedResponse { status, bytes, location } = sealed;
        let open = |part: Part, bytes: Bytes| {
            let opened = self.keys.open_bytes(&part.context(key, status), &bytes);
            let warn = |error| {
                tracing::warn!(%error, "a stored answer can't be opened and counts as not retained");
            };
            opened.map_err(warn).ok()
        };
        let whole = bytes.and_then(|bytes| open(Part::Whole, bytes));
        if let Some(response) =
            whole.and_then(|plain| StoredResponse::from_bytes(status, &plain.into()))
        {
            return Answer::Retained(response);
        }
        let location = location.and_then(|bytes| open(Part::Location, bytes));
        let location = location.and_then(|plain| HeaderValue::from_bytes(&plain).ok());
        Answer::NotRetained { status, location }
    }
}

/// What is sealed by itself.
#[derive(Clone, Copy)]
enum Part {
    /// All of an answer.
    Whole,
    /// Its `Location`, which may stay where the rest doesn't.
    Location,
}

impl Part {
    /// Whose answer it is, with which status, and which part of it: none can be exchanged.
    fn context(self, key: &RecordKey, status: StatusCode) -> Vec<u8> {
        let part: &[u8] = match self {
            Self::Whole => b"",
            Self::Location => b"location",
        };
        [&key.digest.0[..], &status.as_u16().to_be_bytes(), part].concat()
    }
}

impl Ledger for SealingLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        let told = self.store.claim(request, now).await?;
        let Claimed::Sealed(sealed) = told else { return Ok(told) };
        Ok(match self.opened(&request.key, sealed) {
            Answer::Retained(response) => Claimed::Replay(response),
            Answer::Sealed(response) => Claimed::Sealed(response),
            Answer::NotRetained { status, location } => Claimed::NotRetained { status, location },
        })
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.store.renew(key, fence, lease, now).await
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        replicas: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let answer = if self.seals() { self.sealed(key, answer) } else { answer };
        self.store.complete(key, fence, answer, replicas, now).await
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.store.release(key, fence, now).await
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.store.mark_unknown(key, fence, now).await
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        self.store.clear(key, fence, now).await
    }

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        self.store.find(tenant, key, now).await
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        Ok(match self.store.answer(key, fence, now).await? {
            Some(Answer::Sealed(sealed)) => Some(self.opened(key, sealed)),
            answer => answer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, header};
    use model::idempotency::TenantRoom;
    use model::idempotency::suite::{START, answer, request};
    use std::os::unix::fs::PermissionsExt as _;
    use store::{ClockOf, Store};
    use tempfile::TempDir;

    fn keys(folder: &TempDir, names: &[&str]) -> MasterKeys {
        let file = |name: &&str| {
            let path = folder.path().join(name);
            std::fs::write(&path, name.repeat(64)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        MasterKeys::read(&names.iter().map(file).collect::<Vec<_>>()).unwrap()
    }

    async fn hold(ledger: &SealingLedger, asked: &ClaimRequest) -> Fence {
        match ledger.claim(asked, START).await.unwrap() {
            Claimed::Held { fence, .. } => fence,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_is_sealed_at_rest_and_what_cannot_be_opened_is_not_retained() {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let with = |names: &[&str]| {
            SealingLedger::new(AnyLedger::Sql(store.ledger()), keys(&folder, names))
        };
        let (clear, old, new, other) = (with(&[]), with(&["a"]), with(&["b", "a"]), with(&["b"]));
        for (key, by, readers, strangers) in [
            ("clear", &clear, vec![&clear, &old, &new, &other], vec![]),
            ("old", &old, vec![&old, &new], vec![&clear, &other]),
            ("new", &new, vec![&new, &other], vec![&clear, &old]),
        ] {
            let asked = request(key, 1);
            let fence = hold(by, &asked).await;
            let told = by.complete(&asked.key, fence, answer("told"), 0, START).await.unwrap();
            assert_eq!(told, Settled::Applied);
            let kept = store.ledger().claim(&asked, START).await.unwrap();
            assert_eq!(matches!(kept, Claimed::Sealed(_)), key != "clear", "{kept:?}");
            for reader in readers {
                let told = reader.claim(&asked, START).await.unwrap();
                let Claimed::Replay(response) = told else { panic!("{key}: {told:?}") };
                assert_eq!(Answer::Retained(response), answer("told"));
                let told = reader.answer(&asked.key, fence, START).await.unwrap();
                assert_eq!(told, Some(answer("told")), "{key}");
            }
            for stranger in strangers {
                let told = stranger.claim(&asked, START).await.unwrap();
                let status = answer("told").status();
                assert_eq!(told, Claimed::NotRetained { status, location: None }, "{key}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_does_not_open_in_the_place_of_another() {
        let folder = TempDir::new().unwrap();
        let ledger = SealingLedger::new(AnyLedger::in_process(), keys(&folder, &["a"]));
        let (mine, theirs) = (request("mine", 1), request("theirs", 1));
        let Answer::Sealed(sealed) = ledger.sealed(&mine.key, answer("told")) else {
            panic!("not sealed")
        };
        assert_eq!(ledger.opened(&mine.key, sealed.clone()), answer("told"));
        let other = SealedResponse { status: StatusCode::OK, ..sealed.clone() };
        for opened in [ledger.opened(&theirs.key, sealed), ledger.opened(&mine.key, other)] {
            assert!(matches!(opened, Answer::NotRetained { .. }), "{opened:?}");
        }
    }

    #[tokio::test]
    async fn a_location_is_sealed_and_stays_when_there_is_no_room_for_the_rest() {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        let store = Store::open(&url).await.unwrap();
        let room = TenantRoom { answers: 1_000, ..TenantRoom::SHARED };
        let inner = AnyLedger::Sql(store.ledger_of(room, ClockOf::Store));
        let (ledger, stranger) = (
            SealingLedger::new(inner, keys(&folder, &["a"])),
            SealingLedger::new(AnyLedger::Sql(store.ledger()), keys(&folder, &["b"])),
        );
        let (status, place) = (StatusCode::CREATED, HeaderValue::from_static("/v1/contacts/7"));
        let headers = HeaderMap::from_iter([(header::LOCATION, place.clone())]);
        for (key, body) in [("full", Some(Bytes::from(vec![b'x'; 2_000]))), ("large", None)] {
            let asked = request(key, 1);
            let fence = hold(&ledger, &asked).await;
            let answer = Answer::of(status, &headers, body);
            let told = ledger.complete(&asked.key, fence, answer, 0, START).await.unwrap();
            assert_eq!(told, Settled::Applied);
            let kept = store.ledger().answer(&asked.key, fence, START).await.unwrap();
            let Some(Answer::Sealed(kept)) = kept else { panic!("{key}: {kept:?}") };
            let sealed = kept.location.clone().unwrap();
            assert!(!sealed.windows(8).any(|part| part == b"contacts"), "{key}: in clear");
            assert_eq!(kept.bytes, None, "{key}");
            let told = ledger.claim(&asked, START).await.unwrap();
            let location = Some(place.clone());
            assert_eq!(told, Claimed::NotRetained { status, location }, "{key}");
            let told = stranger.claim(&asked, START).await.unwrap();
            assert_eq!(told, Claimed::NotRetained { status, location: None }, "{key}");
            // Neither part opens as the other.
            let exchanged = SealedResponse { bytes: Some(sealed), location: None, ..kept };
            let opened = ledger.opened(&asked.key, exchanged);
            assert_eq!(opened, Answer::NotRetained { status, location: None }, "{key}");
        }
    }
}
