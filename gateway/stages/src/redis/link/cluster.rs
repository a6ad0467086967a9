//! The masters of a cluster, and which of them has a key.
//!
//! Invariants: a command is sent to one server at a time, and again only where that one said that it did nothing and who
//! will. Nobody waits for the map of slots, nor for a server that others ask.

use super::Failure;
use super::keeper::{ANSWER_MAX, Target};
use super::node::Node;
use crate::redis::url::RedisUrl;
use model::port::StoreError;
use redis::{Cmd, ErrorKind, ServerErrorKind, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How many hash slots a cluster has.
pub(in crate::redis) const SLOTS: u16 = 16_384;
/// How often a command follows to where a slot went.
const REDIRECTS_MAX: usize = 3;
/// How often the map of slots is looked at without need, and how often while a master is away or slots are elsewhere.
const LOOK_SELDOM: Duration = Duration::from_secs(10);
const LOOK_OFTEN: Duration = Duration::from_millis(200);
/// How many masters are spoken to; a cluster of more has slots that are not served.
const MASTERS_MAX: usize = 1_000;

/// How many masters are asked for the map at a time.
const ASKED_MAX: usize = 3;

/// Where a server is.
type Address = (String, u16);

/// The masters of a cluster.
pub(super) struct Cluster {
    map: watch::Receiver<Arc<Map>>,
    /// The map is no longer right.
    is_stale: Arc<Notify>,
    looker: AbortHandle,
}

/// Who has which slots.
#[derive(Default)]
struct Map {
    /// Last slot, in order of these, first slot, and whose they are.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    masters: HashMap<Address, Arc<Node>>,
}

impl Cluster {
    pub(super) fn new(url: RedisUrl, runtime: &Handle) -> Self {
        let (publish, map) = watch::channel(Arc::default());
        let is_stale = Arc::new(Notify::new());
        let looker =
            Looker { url, publish, is_stale: Arc::clone(&is_stale), runtime: runtime.clone() };
        let looker = runtime.spawn(looker.look()).abort_handle();
        Self { map, is_stale, looker }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.map.borrow().masters.values().any(|node| node.is_connected())
    }

    /// Which keys some master evicts, if any.
    pub(super) fn evicts(&self) -> Option<Arc<str>> {
        self.map.borrow().masters.values().find_map(|node| node.evicts())
    }

    /// Waits until there is a connection to some master.
    pub(super) async fn connected(&self) {
        let mut map = self.map.clone();
        loop {
            let masters: Vec<_> = map.borrow_and_update().masters.values().cloned().collect();
            let mut waiting = JoinSet::new();
            for node in masters {
                waiting.spawn(async move { node.connected().await });
            }
            tokio::select! {
                Some(_) = waiting.join_next() => return,
                // The looker lives as long as this does.
                changed = map.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sends a command that goes to this key, and waits for its answer until then.
    pub(super) async fn ask(
        &self,
        key: &str,
        command: &Cmd,
        until: Instant,
    ) -> Result<Value, Failure> {
        let node = self.master_of(key)?;
        let answer = node.ask(command, until).await;
        // Boxed, like all that is rare: each request carries the rest of this.
        if answer.is_err() { Box::pin(self.follow(answer, command, until)).await } else { answer }
    }

    /// Sends commands, those of one master together. The answers are in their order.
    pub(super) async fn ask_all(
        &self,
        commands: Vec<(String, Cmd)>,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let mut answers = lost().of_all(commands.len());
        let mut by_master: HashMap<usize, Batch> = HashMap::new();
        for (place, (key, command)) in commands.into_iter().enumerate() {
            match self.master_of(&key) {
                Ok(node) => {
                    let of_master = by_master.entry(Arc::as_ptr(&node).addr());
                    let batch = of_master.or_insert_with(|| Batch { node, commands: Vec::new() });
                    batch.commands.push((place, command));
                }
                Err(failure) => put(&mut answers, place, Err(failure)),
            }
        }
        // All masters at the same time: one that is silent must not cost the others theirs.
        let mut asking = JoinSet::new();
        for Batch { node, commands } in by_master.into_values() {
            asking.spawn(async move {
                let sent: Vec<_> = commands.iter().map(|(_, command)| command.clone()).collect();
                (node.ask_all(sent, until).await, commands)
            });
        }
        while let Some(answered) = asking.join_next().await {
            let Ok((answered, commands)) = answered else { continue };
            for ((place, command), answer) in commands.into_iter().zip(answered) {
                let answer = self.follow(answer, &command, until).await;
                put(&mut answers, place, answer);
            }
        }
        answers
    }

    /// Sends commands that go to this key, to one server and nobody else.
    pub(super) async fn ask_in_place(
        &self,
        key: &str,
        commands: [Cmd; 2],
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let node = match self.master_of(key) {
            Ok(node) => node,
            Err(failure) => return failure.of_all(commands.len()),
        };
        let answers = node.ask_all(commands, until).await;
        if answers.iter().any(Result::is_err) {
            self.is_stale.notify_one();
        }
        answers
    }

    /// Asks whom the answer names, where it says that the slot is elsewhere.
    async fn follow(
        &self,
        mut answer: Result<Value, Failure>,
        command: &Cmd,
        until: Instant,
    ) -> Result<Value, Failure> {
        if let Err(Failure::NotSent(_) | Failure::Unanswered(_)) = answer {
            // A master that is away may have been replaced.
            self.is_stale.notify_one();
        }
        for _ in 0..REDIRECTS_MAX {
            let Some((address, is_moved)) = answer.as_ref().err().and_then(redirect) else { break };
            if is_moved == Moved::ForGood {
                self.is_stale.notify_one();
            }
            // One that is not on the map is on the next.
            let Some(node) = self.map.borrow().masters.get(&address).cloned() else {
                self.is_stale.notify_one();
                break;
            };
            answer = match is_moved {
                Moved::ForGood => node.ask(command, until).await,
                Moved::ThisOnce => {
                    let both = [redis::cmd("ASKING"), command.clone()];
                    let mut answers = node.ask_all(both, until).await;
                    answers.pop().unwrap_or_else(|| Err(lost()))
                }
            };
        }
        answer
    }

    fn master_of(&self, key: &str) -> Result<Arc<Node>, Failure> {
        let slot = hash_slot(tag_of(key));
        self.map.borrow().master_of(slot).ok_or_else(|| {
            self.is_stale.notify_one();
            let why = format!("no master of the cluster is known to serve slot {slot}");
            Failure::NotSent(StoreError::Unavailable(why))
        })
    }
}

/// Commands for one master, each with its place among all.
struct Batch {
    node: Arc<Node>,
    commands: Vec<(usize, Cmd)>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.looker.abort();
    }
}

impl Map {
    fn master_of(&self, slot: u16) -> Option<Arc<Node>> {
        let place = self.ranges.partition_point(|(last, _, _)| *last < slot);
        let (_, first, node) = self.ranges.get(place)?;
        (*first <= slot).then(|| Arc::clone(node))
    }
}

/// Whether a slot is elsewhere from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    ForGood,
    ThisOnce,
}

/// Where a server says that the slot is.
fn redirect(failure: &Failure) -> Option<(Address, Moved)> {
    let Failure::Refused(error) = failure else { return None };
    let moved = match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => Moved::ForGood,
        ErrorKind::Server(ServerErrorKind::Ask) => Moved::ThisOnce,
        _ => return None,
    };
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some(((host.to_owned(), port.parse().ok()?), moved))
}

/// Who keeps the map.
struct Looker {
    url: RedisUrl,
    publish: watch::Sender<Arc<Map>>,
    is_stale: Arc<Notify>,
    runtime: Handle,
}

impl Looker {
    async fn look(self) {
        let mut seeds = self.seeds();
        loop {
            let masters = self.publish.borrow().masters.clone();
            let connected = || masters.iter().filter(|(_, node)| node.is_connected());
            if connected().next().is_some() {
                // Masters tell of each other.
                seeds.clear();
            } else if seeds.is_empty() {
                seeds = self.seeds();
            }
            let asked = connected().take(ASKED_MAX).chain(&seeds);
            if let Some(ranges) = ask_any(asked).await {
                self.install(ranges, &seeds);
            }
            let map = Arc::clone(&self.publish.borrow());
            let is_whole = map.masters.values().all(|node| node.is_connected());
            drop(map);
            // Many may say at once that it is stale.
            sleep(LOOK_OFTEN).await;
            if is_whole && seeds.is_empty() {
                let _ = timeout(LOOK_SELDOM, self.is_stale.notified()).await;
            }
        }
    }

    /// The nodes that the URL names.
    fn seeds(&self) -> HashMap<Address, Arc<Node>> {
        let seed = |(host, port): Address| ((host.clone(), port), self.node(host, port));
        self.url.addresses().map(seed).collect()
    }

    fn node(&self, host: String, port: u16) -> Arc<Node> {
        Arc::new(Node::new(Target::server(&self.url, host, port), &self.runtime))
    }

    fn install(&self, ranges: Vec<Range>, seeds: &HashMap<Address, Arc<Node>>) {
        let old = Arc::clone(&self.publish.borrow());
        let mut map = Map::default();
        for Range { first, last, address } in ranges {
            let known = || map.masters.get(&address).or_else(|| old.masters.get(&address));
            let node = match known().or_else(|| seeds.get(&address)) {
                Some(node) => Arc::clone(node),
                None if map.masters.len() < MASTERS_MAX => self.node(address.0.clone(), address.1),
                None => continue,
            };
            map.ranges.push((last, first, Arc::clone(&node)));
            map.masters.insert(address, node);
        }
        map.ranges.sort_by_key(|(last, _, _)| *last);
        self.publish.send_replace(Arc::new(map));
    }
}

/// Slots that one master has.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    address: Address,
}

/// What the first of these tells that answers; all are asked at the same time.
async fn ask_any<'a>(
    nodes: impl Iterator<Item = (&'a Address, &'a Arc<Node>)>,
) -> Option<Vec<Range>> {
    let until = Instant::now() + ANSWER_MAX;
    let mut asking = JoinSet::new();
    for ((host, _), node) in nodes {
        let (host, node) = (host.clone(), Arc::clone(node));
        asking.spawn(async move {
            timeout_at(until, node.connected()).await.ok()?;
            let answer = node.ask(redis::cmd("CLUSTER").arg("SLOTS"), until).await.ok()?;
            Some(ranges_of(answer, &host)).filter(|ranges| !ranges.is_empty())
        });
    }
    while let Some(told) = asking.join_next().await {
        if let Ok(Some(ranges)) = told {
            return Some(ranges);
        }
    }
    None
}

/// What `CLUSTER SLOTS` answers: first slot, last slot, then the master's host and port. A host that is left out is that
/// of who was asked.
fn ranges_of(answer: Value, asked: &str) -> Vec<Range> {
    let range = |told: Value| {
        let Value::Array(parts) = told else { return None };
        let mut parts = parts.into_iter();
        let (first, last) = (from(parts.next()?)?, from(parts.next()?)?);
        let Value::Array(master) = parts.next()? else { return None };
        let mut master = master.into_iter();
        let host: Option<String> = from(master.next()?)?;
        let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.to_owned());
        // A host that is a question mark is not known to who was asked.
        let address = (host, from(master.next()?)?);
        (address.0 != "?").then_some(Range { first, last, address })
    };
    let Value::Array(ranges) = answer else { return Vec::new() };
    ranges.into_iter().filter_map(range).collect()
}

fn from<T: redis::FromRedisValue>(value: Value) -> Option<T> {
    redis::from_redis_value(value).ok()
}

pub(super) fn lost() -> Failure {
    Failure::NotSent(StoreError::Unavailable("the command was dropped".to_owned()))
}

fn put<T>(answers: &mut [T], place: usize, answer: T) {
    if let Some(slot) = answers.get_mut(place) {
        *slot = answer;
    }
}

/// What decides about a key's slot: what stands between its first braces, if there is something.
fn tag_of(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// The hash slot of a tag: its CRC16 (XMODEM), as the Redis cluster specification has it.
pub(in crate::redis) fn hash_slot(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_a_cluster() {
        // From `CLUSTER KEYSLOT`.
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("", 0),
            ("{foo}", 12_182),
            ("q:{foo}:burst:t", 12_182),
            ("q:{foo}:burst:c:{bar}", 12_182),
            ("foo{}{bar}", 8_363),
        ] {
            assert_eq!(hash_slot(tag_of(key)), slot, "{key}");
        }
    }

    #[test]
    fn the_map_is_read_as_servers_tell_it() {
        let text = |text: &str| Value::BulkString(text.into());
        let master = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, master| {
            let replica = Value::Array(vec![text("replica"), Value::Int(9)]);
            Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
        };
        let answer = Value::Array(vec![
            range(5_461, 16_383, master(text("10.0.0.2"), 7_002)),
            range(0, 5_400, master(Value::Nil, 7_001)),
            range(5_401, 5_460, master(text(""), 7_001)),
            range(1, 1, master(text("?"), 7_001)),
            Value::Int(7),
        ]);
        let expected = [
            (5_461, 16_383, "10.0.0.2", 7_002),
            (0, 5_400, "a", 7_001),
            (5_401, 5_460, "a", 7_001),
        ];
        let expected = expected.map(|(first, last, host, port)| Range {
            first,
            last,
            address: (host.to_owned(), port),
        });
        assert_eq!(ranges_of(answer, "a"), expected);
        assert_eq!(ranges_of(Value::Nil, "a"), []);
    }
}
