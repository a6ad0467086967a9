//! Addresses of names, by the system's resolver: its hosts file, its servers, its order.
//!
//! The system's resolver blocks a thread, for as long as the slowest server of a name lets it, and cannot be cancelled. So a
//! tenant's name is asked for once at a time, however many wait for it, and few names at one time, of one tenant fewer still:
//! who slows down the servers of its own names keeps a few threads, and others' questions wait for none of them. Who finds no
//! thread waits, for as long as its own deadline lets it.

use model::id::TenantId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How many names are asked for at one time.
const LOOKUPS_MAX: usize = 64;
/// How many of them are one tenant's.
const TENANT_LOOKUPS_MAX: usize = 8;
/// How many names wait to be asked for, or are: one for each delivery in hand.
const QUESTIONS_MAX: usize = 4_096;
/// How long an answer is used again. Connections are kept much longer than this.
const ANSWER_KEPT: Duration = Duration::from_secs(5);
/// How many answers are kept.
const ANSWERS_MAX: usize = 4_096;

/// Who knows addresses of names.
pub(crate) trait Names: Send + Sync {
    /// All addresses of a name, at least one, for this tenant.
    fn addresses<'a>(&'a self, name: &'a str, tenant: &'a TenantId) -> Asking<'a>;
}

/// All addresses of a name, or why there is none.
pub(crate) type Answer = Result<Arc<[IpAddr]>, NameError>;
/// An answer that is on its way.
pub(crate) type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The resolver says so.
    #[error("`{0}` has no address: {1}")]
    Unknown(String, String),
    /// Too many other names wait to be asked for.
    #[error("`{0}` was not asked for: {QUESTIONS_MAX} others wait")]
    Busy(String),
}

/// The system's resolver.
#[derive(Clone)]
pub(crate) struct SystemNames {
    book: Arc<Mutex<Book>>,
    lookups: Arc<Semaphore>,
}

impl Default for SystemNames {
    fn default() -> Self {
        Self { book: Arc::default(), lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

/// A name that a tenant asks for.
type Asked = (TenantId, Arc<str>);

#[derive(Default)]
struct Book {
    asked: HashMap<Asked, watch::Receiver<Option<Answer>>>,
    /// Of tenants that ask.
    lookups: HashMap<TenantId, Arc<Semaphore>>,
    /// Until when each is used.
    kept: HashMap<Arc<str>, (Arc<[IpAddr]>, Instant)>,
}

impl Names for SystemNames {
    fn addresses<'a>(&'a self, name: &'a str, tenant: &'a TenantId) -> Asking<'a> {
        Box::pin(async move {
            let mut answer = match self.begin(name, tenant)? {
                Begun::Known(addresses) => return Ok(addresses),
                Begun::Asked(answer) => answer,
            };
            let answer = answer.wait_for(Option::is_some).await;
            let answer = answer.ok().and_then(|answer| answer.clone());
            answer.unwrap_or_else(|| Err(unknown(name, "the resolver failed")))
        })
    }
}

enum Begun {
    Known(Arc<[IpAddr]>),
    Asked(watch::Receiver<Option<Answer>>),
}

impl SystemNames {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a name, or the question that is under way; asks where there is none.
    fn begin(&self, name: &str, tenant: &TenantId) -> Result<Begun, NameError> {
        let mut book = self.book();
        if let Some((addresses, until)) = book.kept.get(name)
            && Instant::now() < *until
        {
            return Ok(Begun::Known(Arc::clone(addresses)));
        }
        let asked: Asked = (tenant.clone(), name.into());
        // One whose task was cut off tells nobody anything.
        if let Some(answer) = book.asked.get(&asked).filter(|answer| answer.has_changed().is_ok()) {
            return Ok(Begun::Asked(answer.clone()));
        }
        if book.asked.len() >= QUESTIONS_MAX {
            return Err(NameError::Busy(name.to_owned()));
        }
        let (told, answer) = watch::channel(None);
        book.asked.insert(asked.clone(), answer.clone());
        let of_tenant = || Arc::new(Semaphore::new(TENANT_LOOKUPS_MAX));
        let own = Arc::clone(book.lookups.entry(tenant.clone()).or_insert_with(of_tenant));
        tokio::spawn(self.clone().ask(asked, own, told));
        Ok(Begun::Asked(answer))
    }

    async fn ask(self, asked: Asked, own: Arc<Semaphore>, told: watch::Sender<Option<Answer>>) {
        // They are never closed. The tenant's own comes first, so that none waits for it with a place of all.
        let turn = (own.acquire().await, self.lookups.acquire().await);
        let answer = resolve(&asked.1).await;
        drop(turn);
        drop(own);
        let mut book = self.book();
        book.asked.remove(&asked);
        let (tenant, name) = asked;
        if book.lookups.get(&tenant).is_some_and(|own| Arc::strong_count(own) == 1) {
            book.lookups.remove(&tenant);
        }
        if let Ok(addresses) = &answer {
            let now = Instant::now();
            if book.kept.len() >= ANSWERS_MAX {
                book.kept.retain(|_, (_, until)| now < *until);
            }
            if book.kept.len() < ANSWERS_MAX {
                book.kept.insert(name, (Arc::clone(addresses), now + ANSWER_KEPT));
            }
        }
        drop(book);
        told.send_replace(Some(answer));
    }
}

async fn resolve(name: &str) -> Answer {
    let found = tokio::net::lookup_host((name, 0)).await;
    let found = found.map_err(|error| unknown(name, &error.to_string()))?;
    let addresses: Arc<[IpAddr]> = found.map(|address| address.ip()).collect();
    if addresses.is_empty() { Err(unknown(name, "the resolver knows none")) } else { Ok(addresses) }
}

fn unknown(name: &str, why: &str) -> NameError {
    NameError::Unknown(name.to_owned(), why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme() -> TenantId {
        TenantId::from("acme")
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_however_many_wait() {
        let names = SystemNames::default();
        let begin = || names.begin("localhost", &acme()).unwrap();
        let (Begun::Asked(first), Begun::Asked(mut second)) = (begin(), begin()) else {
            panic!("nothing is known yet")
        };
        assert!(first.same_channel(&second));
        assert!(second.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_ok());
        assert!(matches!(begin(), Begun::Known(_)));
        assert!(names.book().asked.is_empty() && names.book().lookups.is_empty());
    }

    #[tokio::test]
    async fn a_tenant_whose_names_are_slow_holds_up_nobody_else_and_its_own_wait() {
        let names = SystemNames::default();
        let own = Arc::new(Semaphore::new(TENANT_LOOKUPS_MAX));
        names.book().lookups.insert(acme(), Arc::clone(&own));
        // As many as it may have are under way, and don't end.
        let slow = own.acquire_many(u32::try_from(TENANT_LOOKUPS_MAX).unwrap()).await.unwrap();
        let asking = names.clone();
        let waits = tokio::spawn(async move { asking.addresses("localhost", &acme()).await });
        while names.book().asked.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(names.addresses("localhost", &TenantId::from("globex")).await.is_ok());
        assert!(!waits.is_finished(), "it is neither asked nor refused");
        drop(slow);
        assert!(waits.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn few_names_are_asked_for_at_one_time_and_the_others_wait() {
        let names = SystemNames::default();
        let all = names.lookups.acquire_many(u32::try_from(LOOKUPS_MAX).unwrap()).await.unwrap();
        let asking = names.clone();
        let waits = tokio::spawn(async move { asking.addresses("localhost", &acme()).await });
        while names.book().asked.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(all);
        assert!(waits.await.unwrap().is_ok());
        // As many as may wait, of which none is answered before this task waits.
        for number in 0..QUESTIONS_MAX {
            names.begin(&format!("{number}.invalid"), &acme()).unwrap();
        }
        let busy = NameError::Busy("one-more.invalid".to_owned());
        assert_eq!(names.begin("one-more.invalid", &acme()).err(), Some(busy));
        assert!(names.begin("0.invalid", &acme()).is_ok());
    }

    #[tokio::test]
    async fn a_question_that_was_cut_off_is_asked_again() {
        let names = SystemNames::default();
        names.book().asked.insert((acme(), "localhost".into()), watch::channel(None).1);
        assert!(names.addresses("localhost", &acme()).await.is_ok());
    }
}
