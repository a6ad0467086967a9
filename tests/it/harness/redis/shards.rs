//! A Redis Cluster: three masters with a third of the slots each, and a replica of each.

use super::Redis;
use crate::harness::PATIENCE;
use crate::harness::ports::free;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a master is missed until its replica takes over. Shorter ones find nodes dead that only wait for a processor.
const NODE_TIMEOUT: &str = "2000";

/// The servers.
pub(crate) struct Shards {
    nodes: Vec<Redis>,
    /// Who runs and does not answer.
    frozen: Option<usize>,
}

/// A server, as the others know it.
#[derive(Clone, Debug)]
struct Known {
    address: String,
    flags: String,
    linked: bool,
    slots: Vec<(u16, u16)>,
    /// Whether one of its slots is on its way, which each server says of itself alone.
    moves: bool,
}

impl Known {
    fn is_well(&self) -> bool {
        self.linked && !self.flags.contains("fail") && !self.flags.contains("handshake")
    }

    fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

impl Shards {
    /// Starts them, and waits until all agree about who has which slot.
    pub(crate) fn start() -> Self {
        let node = |_| {
            let port = free(2);
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &(port + 1).to_string(),
                "--cluster-node-timeout",
                NODE_TIMEOUT,
                // A shard that is away is away alone, and its replica takes over however old it is.
                "--cluster-require-full-coverage",
                "no",
                "--cluster-replica-validity-factor",
                "0",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "no",
            ];
            Redis::with_file(port, None, &arguments)
        };
        let nodes: Vec<Redis> = (0..6).map(node).collect();
        let mut create = nodes[0].cli();
        create
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| node.address().to_string()));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]).stdin(Stdio::null());
        let output = create.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let shards = Self { nodes, frozen: None };
        shards.have_settled();
        shards
    }

    /// Where they are.
    pub(crate) fn url(&self) -> String {
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| node.address().to_string()).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    fn alive(&self) -> impl Iterator<Item = &Redis> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(at, node)| node.runs() && Some(*at) != self.frozen).map(|(_, node)| node)
    }

    fn any(&self) -> &Redis {
        self.alive().next().unwrap()
    }

    /// Waits until all servers that run agree about who has which slot, each has a master that is well, and none is on its
    /// way.
    pub(crate) fn have_settled(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.agree() {
            let seen = || self.any().ask(&["CLUSTER", "NODES"]);
            assert!(Instant::now() < deadline, "the cluster does not settle:\n{}", seen());
            sleep(Duration::from_millis(50));
        }
    }

    fn agree(&self) -> bool {
        let all: Vec<_> = self.alive().map(known_to).collect();
        let settled = |known: &Vec<Known>| {
            let well = || known.iter().filter(|known| known.is_well());
            let covered: u32 = well().flat_map(|known| &known.slots).map(count).sum();
            covered == 16_384
                && well().count() == all.len()
                && !known.iter().any(|known| known.moves)
        };
        all.iter().all(settled) && all.windows(2).all(|two| owners(&two[0]) == owners(&two[1]))
    }

    /// The slot of what belongs to a tenant.
    pub(crate) fn slot_of(&self, tenant: &str) -> u16 {
        self.any().ask(&["CLUSTER", "KEYSLOT", &format!("{{{tenant}}}")]).parse().unwrap()
    }

    /// Which server has this slot, by its place in the list.
    pub(crate) fn master_of(&self, slot: u16) -> usize {
        let known = known_to(self.any());
        let master = known.iter().find(|known| known.is_well() && known.has(slot));
        let address =
            &master.unwrap_or_else(|| panic!("nobody has slot {slot}: {known:#?}")).address;
        self.nodes.iter().position(|node| node.address().to_string() == *address).unwrap()
    }

    /// The masters, by their places in the list.
    pub(crate) fn masters(&self) -> Vec<usize> {
        let known = known_to(self.any());
        let masters = known.iter().filter(|known| known.is_well() && !known.slots.is_empty());
        masters.map(|master| self.master_of(master.slots[0].0)).collect()
    }

    /// The first slots of those that another master has than the slot before.
    pub(crate) fn edges(&self) -> Vec<u16> {
        let known = known_to(self.any());
        let firsts = known.iter().flat_map(|known| &known.slots).map(|(first, _)| *first);
        let mut edges: Vec<u16> = firsts.filter(|first| *first > 0).collect();
        edges.sort_unstable();
        edges
    }

    /// SIGKILL to this server.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// From now on this server does not answer, and closes no connection.
    pub(crate) fn freeze(&mut self, node: usize) {
        self.nodes[node].freeze();
        self.frozen = Some(node);
    }

    /// It goes on, and takes part again as a replica.
    pub(crate) fn thaw(&mut self, node: usize) {
        self.nodes[node].thaw();
        self.frozen = None;
        self.have_settled();
    }

    /// Starts it again, and waits until it takes part. Somebody else is the master of its slots meanwhile.
    pub(crate) fn start_again(&mut self, node: usize) {
        self.nodes[node].start_again();
        self.have_settled();
    }

    /// Begins to move a slot: from now on its keys are at the one place or at the other.
    pub(crate) fn begins_to_move(&self, slot: u16, to: usize) {
        let from = self.master_of(slot);
        let (source, target) = (self.id_of(from), self.id_of(to));
        let slot = slot.to_string();
        self.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        self.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
    }

    /// Moves the keys of a slot that is to be moved, and says so to everybody (what `redis-cli --cluster reshard` does).
    pub(crate) fn moves(&self, slot: u16, to: usize) {
        let from = self.master_of(slot);
        let (target, address) = (self.id_of(to), self.nodes[to].address());
        let (text, port) = (slot.to_string(), address.port().to_string());
        let belongs = ["CLUSTER", "SETSLOT", &text, "NODE", &target];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let keys = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &text, "100"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if !keys.is_empty() {
                let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
                migrate.extend(keys);
                self.nodes[from].ask(&migrate);
                continue;
            }
            // The new master first, so that it takes what the old one refuses from then on; that one refuses while it has
            // keys of it.
            self.nodes[to].ask(&belongs);
            match self.nodes[from].try_ask(&belongs) {
                Ok(_) => break,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
        }
        for node in self.alive() {
            // Replicas refuse, and learn of it by themselves.
            node.try_ask(&belongs).ok();
        }
        self.have_settled();
        assert_eq!(self.master_of(slot), to);
    }

    /// Moves so many slots from one master to another, as operators do: where a slot stays on its way, they mend that first
    /// and begin again.
    pub(crate) fn reshard(&self, from: usize, to: usize, slots: u32) {
        let place = self.nodes[from].address().to_string();
        let operator = |arguments: &[&str]| {
            let mut command = self.nodes[from].cli();
            command.arg("--cluster").args(arguments).arg("--cluster-yes");
            command.stdin(Stdio::null()).output().unwrap()
        };
        let (source, target, slots) = (self.id_of(from), self.id_of(to), slots.to_string());
        let moved = ["--cluster-from", &source, "--cluster-to", &target, "--cluster-slots", &slots];
        let reshard = [&["reshard", &place][..], &moved].concat();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = operator(&reshard);
            if output.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(Instant::now() < deadline, "{said}");
            println!("it is mended and tried again:\n{said}");
            operator(&["fix", &place]);
        }
        self.have_settled();
    }

    fn id_of(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"])
    }
}

/// Who has which slots.
fn owners(known: &[Known]) -> Vec<(&str, &[(u16, u16)])> {
    let masters = known.iter().filter(|known| !known.slots.is_empty());
    let mut owners: Vec<_> =
        masters.map(|known| (known.address.as_str(), known.slots.as_slice())).collect();
    owners.sort_unstable();
    owners
}

/// How many slots a range has.
fn count((first, last): &(u16, u16)) -> u32 {
    u32::from(last - first) + 1
}

/// Who a server knows of: `id address@port,name flags master ping pong epoch link slot…`.
fn known_to(node: &Redis) -> Vec<Known> {
    let told = node.ask(&["CLUSTER", "NODES"]);
    let read = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        // Slots that move are told as `[slot->-id]`.
        let (moving, slots): (Vec<&str>, Vec<&str>) =
            words[8..].iter().partition(|slots| slots.starts_with('['));
        let range = |slots: &&str| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            (first.parse().unwrap(), last.parse().unwrap())
        };
        Known {
            address: words[1].split('@').next().unwrap().to_owned(),
            flags: words[2].to_owned(),
            linked: words[7] == "connected",
            slots: slots.iter().map(range).collect(),
            moves: !moving.is_empty(),
        }
    };
    told.lines().filter(|line| !line.is_empty()).map(read).collect()
}
