//! docs/idempotency.md, "How to retry": the programs that the page shows, run as they stand there against the real binary
//! and an API that breaks off. Whatever fails, one contact is made.

use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::page::blocks;
use crate::harness::{Arrival, Latch, Node, Reply, Upstream};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const PAGE: &str = include_str!("../../docs/idempotency.md");
/// The page's languages: the name of its fence, who runs it, and what its files are called.
const LANGUAGES: [(&str, &str, &str); 3] =
    [("sh", "sh", "sh"), ("python", "python3", "py"), ("js", "node", "mjs")];
/// What the programs look their contact up by.
const EMAIL: &str = "grace@example.org";

/// A program of the page in a folder of its own.
struct Recipe {
    language: &'static str,
    runs: &'static str,
    file: PathBuf,
    folder: TempDir,
}

impl Recipe {
    fn all() -> [Self; 3] {
        LANGUAGES.map(|(language, runs, extension)| Self::of(language, runs, extension))
    }

    fn of(language: &'static str, runs: &'static str, extension: &str) -> Self {
        let mut programs = blocks(PAGE, language);
        assert_eq!(programs.len(), 1, "the page has one program in {language}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("create").with_extension(extension);
        std::fs::write(&file, programs.remove(0).1).unwrap();
        Self { language, runs, file, folder }
    }

    fn start(&self, node: &Node) -> Child {
        let mut command = Command::new(self.runs);
        command
            .arg(&self.file)
            .current_dir(self.folder.path())
            .env("GATEWAY_URL", format!("http://{}", node.gateway))
            .env("ACME_KEY", ACME)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}: scripts/setup test installs what is missing", self.runs)
        })
    }

    /// What it prints, and how it ends.
    async fn run(&self, node: &Node) -> Output {
        let child = self.start(node);
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    }

    /// Fails unless it prints this id and nothing else.
    async fn prints(&self, node: &Node, id: &str) {
        let output = self.run(node).await;
        let printed = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {complained}", self.language);
        assert_eq!(printed, format!("{id}\n"), "{}: {complained}", self.language);
    }

    /// The key that it has stored.
    fn key(&self) -> String {
        let path: &Path = self.folder.path();
        std::fs::read_to_string(path.join("order-4711.key")).unwrap()
    }
}

/// What the API does about the POST of this number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Post {
    /// It makes the contact and says so.
    Makes,
    /// It makes the contact and breaks off.
    MakesAndCuts,
    /// It breaks off.
    Cuts,
    /// It says that it did nothing.
    Declines,
}

/// An API with contacts: what it made, by the derived key that asked for it.
#[derive(Clone, Default)]
struct Contacts(Arc<Mutex<Vec<String>>>);

impl Contacts {
    /// An API that does so about its first POSTs, and makes what the others ask for.
    async fn behind(posts: &[Post], keys: Keys) -> (Self, Upstream) {
        let contacts = Self::default();
        let (kept, mut posts) = (contacts.clone(), posts.to_vec());
        posts.reverse();
        let posts = Mutex::new(posts);
        let upstream = Upstream::scripted(move |arrival| {
            if arrival.method == "GET" {
                return kept.listed(arrival);
            }
            let post = posts.lock().unwrap().pop().unwrap_or(Post::Makes);
            kept.does(post, arrival, keys)
        })
        .await;
        (contacts, upstream)
    }

    fn does(&self, post: Post, arrival: &Arrival, keys: Keys) -> Reply {
        let (mut made, key) = (self.0.lock().unwrap(), arrival.header("idempotency-key"));
        if matches!(post, Post::Makes | Post::MakesAndCuts) {
            let is_known = keys == Keys::Honoured && made.iter().any(|known| known == key);
            if !is_known {
                made.push(key.to_owned());
            }
        }
        match post {
            Post::Makes => Reply::of(201).json(&contact(made.len())),
            Post::MakesAndCuts | Post::Cuts => Reply::cut(),
            Post::Declines => Reply::of(429).header("retry-after", "1").body("not now"),
        }
    }

    /// In two pages, of which the first is empty.
    fn listed(&self, arrival: &Arrival) -> Reply {
        let made = self.0.lock().unwrap().len();
        let page = match arrival.target.contains("cursor=") {
            false => json!({ "items": [], "next_cursor": "a/b" }),
            true => {
                let items: Vec<Value> = (1..=made).map(contact).collect();
                json!({ "items": items, "next_cursor": null })
            }
        };
        Reply::of(200).json(&page)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// What an API does about derived keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    /// Each request makes something.
    Ignored,
    /// One that it has seen makes nothing new.
    Honoured,
}

fn contact(number: usize) -> Value {
    json!({ "id": format!("contact-{number}"), "emails": [EMAIL] })
}

fn posts(upstream: &Upstream) -> Vec<Arrival> {
    upstream.arrivals().into_iter().filter(|arrival| arrival.method == "POST").collect()
}

/// A gateway whose route treats unknown outcomes so.
async fn gateway(upstream: &Upstream, on_unknown: &str) -> Node {
    let document = document::standard(upstream.address).changed(|document| {
        document.entry("routes", "contacts.create")["idempotency"]["on_unknown"] =
            json!(on_unknown);
    });
    Node::start(&document).await
}

/// Runs each program against a gateway and an API of its own, all at once. Each time one contact is made; says what the API
/// was asked to make, by program.
async fn each(on_unknown: &str, does: &[Post], keys: Keys) -> [Vec<Arrival>; 3] {
    let one = async |recipe: Recipe| {
        let (contacts, upstream) = Contacts::behind(does, keys).await;
        let node = gateway(&upstream, on_unknown).await;
        recipe.prints(&node, "contact-1").await;
        // Whoever starts it again gets the same.
        recipe.prints(&node, "contact-1").await;
        assert_eq!(contacts.count(), 1, "{}", recipe.language);
        posts(&upstream)
    };
    let [sh, python, js] = Recipe::all();
    tokio::join!(one(sh), one(python), one(js)).into()
}

fn derived_keys(posts: &[Arrival]) -> Vec<&str> {
    let mut keys: Vec<&str> = posts.iter().map(|post| post.header("idempotency-key")).collect();
    keys.dedup();
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_took_effect_and_was_not_heard_of_is_found_and_not_made_again() {
    for posts in each("reject", &[Post::MakesAndCuts], Keys::Ignored).await {
        assert_eq!(posts.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_and_does_not_appear_is_made_under_a_new_key() {
    for posts in each("reject", &[Post::Cuts], Keys::Ignored).await {
        assert_eq!((posts.len(), derived_keys(&posts).len()), (2, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_honours_the_derived_key_is_asked_until_it_answers() {
    let does = [Post::MakesAndCuts, Post::Cuts, Post::MakesAndCuts];
    for posts in each("redrive", &does, Keys::Honoured).await {
        assert_eq!((posts.len(), derived_keys(&posts).len()), (4, 1));
        let fences: Vec<i64> =
            posts.iter().map(|post| post.header("x-idempotency-fence").parse().unwrap()).collect();
        assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declined_is_asked_for_again_with_the_same_key() {
    for posts in each("reject", &[Post::Declines], Keys::Ignored).await {
        assert_eq!((posts.len(), derived_keys(&posts).len()), (2, 1));
    }
}

/// Where a route keeps such an answer, asking again gets nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declined_and_is_kept_ends_the_program() {
    let one = async |recipe: Recipe| {
        let (contacts, upstream) =
            Contacts::behind(&[Post::Declines, Post::Declines], Keys::Ignored).await;
        let document = document::standard(upstream.address).changed(|document| {
            let rules = &mut document.entry("routes", "contacts.create")["idempotency"];
            rules["release_on"] = json!([503]);
        });
        let node = Node::start(&document).await;
        let output = recipe.run(&node).await;
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}: {complained}", recipe.language);
        assert!(complained.contains("not now"), "{}: {complained}", recipe.language);
        assert_eq!((contacts.count(), posts(&upstream).len()), (0, 1), "{}", recipe.language);
    };
    let [sh, python, js] = Recipe::all();
    tokio::join!(one(sh), one(python), one(js));
}

/// The client is killed while its request is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_killed_and_started_again_gets_the_first_answer() {
    for recipe in Recipe::all() {
        let latch = Latch::closed();
        let upstream = Upstream::start().await;
        let held = latch.clone();
        upstream.does(move |_| Reply::of(201).json(&contact(1)).held_by(&held));
        let node = gateway(&upstream, "reject").await;
        let mut first = recipe.start(&node);
        upstream.has_seen(1).await;
        let key = recipe.key();
        first.kill().unwrap();
        first.wait().unwrap();
        latch.open();
        recipe.prints(&node, "contact-1").await;
        assert_eq!(recipe.key(), key);
        upstream.only_arrival();
    }
}
