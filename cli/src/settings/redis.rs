//! The Redis that nodes share: one URL, or a map of what is kept there. Invariant: whatever prints this prints no login.

use anyhow::bail;
use gateway::redis::{COMMAND_DEADLINE, RedisUrl};
use model::units::Duration;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::RangeInclusive;
use std::time;

/// How long a command may take: no less than a network does, no more than a request can wait for.
const DEADLINES: RangeInclusive<Duration> =
    Duration(time::Duration::from_millis(1))..=Duration(time::Duration::from_secs(1));

/// What is kept in a Redis, and how long that may take to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Redis {
    /// Where limits are counted; in each process for itself when absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub(crate) quota: Option<RedisUrl>,
    /// Where idempotency records are kept, if they are kept on a Redis.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub(crate) idempotency: Option<RedisUrl>,
    /// How long a command about limits may take; the default is named where it is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<Duration>,
}

impl Redis {
    /// Whether nothing is said about it.
    pub(crate) fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// All that can be is kept there.
    pub(super) fn is_all_at(&mut self, url: RedisUrl) {
        self.quota = Some(url.clone());
        self.idempotency = Some(url);
    }

    /// How long a command about limits may take.
    pub(crate) fn deadline(&self) -> time::Duration {
        self.deadline.map_or(COMMAND_DEADLINE, |deadline| deadline.0)
    }

    /// What no single value shows.
    pub(super) fn judge(&self) -> anyhow::Result<()> {
        let Some(deadline) = &self.deadline else { return Ok(()) };
        if !DEADLINES.contains(deadline) {
            bail!("`redis.deadline` is not between {} and {}", DEADLINES.start(), DEADLINES.end());
        }
        if self.quota.is_none() {
            bail!("`redis.deadline` is given and no Redis: say where it is in `redis.quota`");
        }
        Ok(())
    }
}

/// As the file writes it out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parts {
    #[serde(deserialize_with = "read")]
    quota: Option<RedisUrl>,
    #[serde(deserialize_with = "read")]
    idempotency: Option<RedisUrl>,
    deadline: Option<Duration>,
}

impl<'de> Deserialize<'de> for Redis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Redis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL like `redis://host`, or `{ quota: URL, idempotency: URL }`")
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<Redis, E> {
        let mut redis = Redis::default();
        redis.is_all_at(url.parse().map_err(E::custom)?);
        Ok(redis)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Redis, A::Error> {
        let Parts { quota, idempotency, deadline } =
            Parts::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Redis { quota, idempotency, deadline })
    }
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RedisUrl>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

fn shown<S: Serializer>(url: &Option<RedisUrl>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => serializer.collect_str(url),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> Result<Redis, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let redis: Redis = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| error.to_string())?;
        redis.judge().map_err(|error| error.to_string())?;
        Ok(redis)
    }

    #[test]
    fn a_url_and_a_map_say_the_same() {
        let short = redis("redis://r:6379").unwrap();
        let long = redis("{ quota: redis://r:6379, idempotency: redis://r:6379 }").unwrap();
        assert_eq!(short, long);
        assert_eq!(short.deadline(), COMMAND_DEADLINE);
        let long = redis("{ quota: redis://r:6379, deadline: 20ms }").unwrap();
        assert_eq!((&long.quota, &long.idempotency), (&short.quota, &None));
        assert_eq!(long.deadline().as_millis(), 20);
        // What is shown is read.
        let shown = serde_saphyr::to_string(&long).unwrap();
        assert_eq!(redis(&shown).unwrap(), long, "{shown}");
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, host) in [
            ("redis://app:s3cret@r:6379/1", "redis://r:6379/1"),
            ("rediss://:s3cret@r:6379", "rediss://r:6379"),
            ("redis+sentinel://app:s3cret@a,b/main", "redis+sentinel://a,b/main"),
            ("rediss+cluster://app:s3cret@a,b", "rediss+cluster://a,b"),
        ] {
            let read = redis(url).unwrap();
            for shown in [format!("{read:?}"), serde_saphyr::to_string(&read).unwrap()] {
                assert!(!shown.contains("s3cret") && shown.contains(host), "{shown}");
            }
        }
    }

    #[test]
    fn what_can_not_be_meant_is_refused_and_not_echoed() {
        for (text, named) in [
            ("http://app:s3cret@r", "redis://"),
            ("s3cret", "redis://"),
            ("{ quota: \"redis://app:s3cret@\" }", "redis://"),
            ("[redis://app:s3cret@r]", "a URL like"),
            ("{ quota: redis://r, idempotence: redis://r }", "unknown field `idempotence`"),
            ("{ idempotency: \"redis://app:s3cret@\" }", "redis://"),
            ("{ idempotency: redis://r, deadline: 15ms }", "redis.quota"),
            ("{ deadline: 15ms }", "redis.quota"),
            ("{ quota: redis://r, deadline: 0s }", "between 1ms and 1s"),
            ("{ quota: redis://r, deadline: 2s }", "between 1ms and 1s"),
            ("{ quota: redis://r, deadline: soon }", "soon"),
        ] {
            let error = redis(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}
