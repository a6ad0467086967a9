//! The seal on stored answers: put on their way into a store that outlives the process, broken on their way out.
//!
//! Invariants: where a master key is configured, no store is handed headers or body of an answer in clear; what can't be
//! opened is an answer that was not retained, never garbage. What was kept before there was a key stays readable.

use super::{AnyLedger, LedgerStanding};
use model::id::TenantId;
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Fence, Key, Ledger, Record, RecordKey, SealedResponse, Settled,
    State, StoredResponse,
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

    /// Forgets what expired in process.
    pub fn sweep(&self, now: i64) {
        self.store.sweep(now);
    }

    fn seals(&self) -> bool {
        self.keys.can_seal() && !matches!(self.store, AnyLedger::Memory(_))
    }

    fn sealed(&self, key: &RecordKey, answer: Answer) -> Answer {
        let Answer::Retained(response) = answer else { return answer };
        let status = response.status;
        match self.keys.seal_bytes(&context(key, status.as_u16()), response.to_bytes()) {
            Ok(bytes) => Answer::Sealed(SealedResponse { status, bytes: bytes.into() }),
            Err(error) => {
                tracing::error!(%error, "an answer can't be sealed and is not retained");
                Answer::Retained(response).without_body()
            }
        }
    }

    fn opened(&self, key: &RecordKey, sealed: SealedResponse) -> Answer {
        let SealedResponse { status, bytes } = &sealed;
        let why = match self.keys.open_bytes(&context(key, status.as_u16()), bytes) {
            Ok(plain) => match StoredResponse::from_bytes(*status, &plain.into()) {
                Some(response) => return Answer::Retained(response),
                None => "it is no answer".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(why, "a stored answer can't be opened and counts as not retained");
        Answer::Sealed(sealed).without_body()
    }
}

/// Whose answer it is, and with which status: neither can be exchanged.
fn context(key: &RecordKey, status: u16) -> Vec<u8> {
    [&key.digest.0[..], &status.to_be_bytes()].concat()
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

    async fn find(
        &self,
        tenant: &TenantId,
        key: &Key,
        now: i64,
    ) -> Result<Vec<Record>, StoreError> {
        let mut found = self.store.find(tenant, key, now).await?;
        for record in &mut found {
            if let State::Done { answer, .. } = &mut record.state
                && let Answer::Sealed(sealed) = answer
            {
                *answer = self.opened(&record.key, sealed.clone());
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::idempotency::suite::{START, answer, request};
    use std::os::unix::fs::PermissionsExt as _;
    use store::Store;
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
                let found = reader.find(&"acme".into(), &key_of(key), START).await.unwrap();
                let expected = State::Done { stored_at: START, answer: answer("told") };
                assert_eq!(found.first().unwrap().state, expected, "{key}");
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
        let other = SealedResponse { status: http::StatusCode::OK, ..sealed.clone() };
        for opened in [ledger.opened(&theirs.key, sealed), ledger.opened(&mine.key, other)] {
            assert!(matches!(opened, Answer::NotRetained { .. }), "{opened:?}");
        }
    }

    fn key_of(key: &str) -> Key {
        Key::parse(key.as_bytes()).unwrap()
    }
}
