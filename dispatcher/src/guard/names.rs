//! Addresses of names, by the system's resolver: its hosts file, its servers, its order.
//!
//! The system's resolver blocks a thread, for as long as the slowest server of a name lets it, and cannot be cancelled. So a
//! name is asked for once at a time, however many wait for it, and few names at one time: who slows down the servers of its
//! own name keeps one thread.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How many names are asked for at one time.
const LOOKUPS_MAX: usize = 64;
/// How long an answer is used again. Connections are kept much longer than this.
const ANSWER_KEPT: Duration = Duration::from_secs(5);
/// How many answers are kept.
const ANSWERS_MAX: usize = 4_096;

/// Who knows addresses of names.
pub(crate) trait Names: Send + Sync {
    /// All addresses of a name: at least one.
    fn addresses<'a>(&'a self, name: &'a str) -> Asking<'a>;
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
    /// Too many other names are being asked for.
    #[error("`{0}` was not asked for: {LOOKUPS_MAX} other names are being asked for")]
    Busy(String),
}

/// The system's resolver.
#[derive(Clone, Default)]
pub(crate) struct SystemNames(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    asked: HashMap<Arc<str>, watch::Receiver<Option<Answer>>>,
    /// Until when each is used.
    kept: HashMap<Arc<str>, (Arc<[IpAddr]>, Instant)>,
}

impl Names for SystemNames {
    fn addresses<'a>(&'a self, name: &'a str) -> Asking<'a> {
        Box::pin(async move {
            let mut answer = match self.begin(name)? {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a name, or the question that is under way; asks where there is none.
    fn begin(&self, name: &str) -> Result<Begun, NameError> {
        let mut book = self.book();
        if let Some((addresses, until)) = book.kept.get(name)
            && Instant::now() < *until
        {
            return Ok(Begun::Known(Arc::clone(addresses)));
        }
        // One whose task was cut off tells nobody anything.
        if let Some(answer) = book.asked.get(name).filter(|answer| answer.has_changed().is_ok()) {
            return Ok(Begun::Asked(answer.clone()));
        }
        if book.asked.len() >= LOOKUPS_MAX {
            return Err(NameError::Busy(name.to_owned()));
        }
        let (told, answer) = watch::channel(None);
        let name: Arc<str> = name.into();
        book.asked.insert(Arc::clone(&name), answer.clone());
        tokio::spawn(self.clone().ask(name, told));
        Ok(Begun::Asked(answer))
    }

    async fn ask(self, name: Arc<str>, told: watch::Sender<Option<Answer>>) {
        let answer = resolve(&name).await;
        let mut book = self.book();
        book.asked.remove(&name);
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

    #[tokio::test]
    async fn a_name_is_asked_for_once_however_many_wait() {
        let names = SystemNames::default();
        let (Begun::Asked(first), Begun::Asked(mut second)) =
            (names.begin("localhost").unwrap(), names.begin("localhost").unwrap())
        else {
            panic!("nothing is known yet")
        };
        assert!(first.same_channel(&second));
        assert!(second.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_ok());
        assert!(matches!(names.begin("localhost").unwrap(), Begun::Known(_)));
        assert!(names.book().asked.is_empty());
    }

    #[tokio::test]
    async fn few_names_are_asked_for_at_one_time() {
        let names = SystemNames::default();
        // Nothing is answered before this task waits.
        for number in 0..LOOKUPS_MAX {
            names.begin(&format!("{number}.invalid")).unwrap();
        }
        let busy = NameError::Busy("one-more.invalid".to_owned());
        assert_eq!(names.begin("one-more.invalid").err(), Some(busy));
        assert!(names.begin("0.invalid").is_ok());
    }

    #[tokio::test]
    async fn a_question_that_was_cut_off_is_asked_again() {
        let names = SystemNames::default();
        names.book().asked.insert("localhost".into(), watch::channel(None).1);
        assert!(names.addresses("localhost").await.is_ok());
    }
}
