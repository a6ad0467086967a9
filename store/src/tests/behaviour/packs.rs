//! Pack files and what packs read: kept for good, bounded, one winner among many who push.

use crate::Store;
use crate::control::{
    AuditQuery, DATA_BYTES_MAX, DATA_KEYS_MAX, DATUM_KEY_MAX, DATUM_VALUE_MAX, Effect, Over,
    PACK_BYTES_MAX, PACKS_MAX, PackDatum, PackFile, PackInfo, WriteError,
};
use crate::tests::samples::{at, done, write};
use bytes::Bytes;
use model::id::PackId;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn file(version: &str, content: &str, key: &str) -> PackFile {
    let bytes = Bytes::from(format!("{content} by {key} \0\u{ff}"));
    PackFile {
        info: PackInfo {
            name: "p".into(),
            version: version.to_owned(),
            digest: format!("sha256:{content}"),
            key: key.into(),
            size: bytes.len() as u64,
            manifest: json!({ "name": "p", "phases": ["request"] }),
            reusable: true,
            image: false,
            vectors: 3,
            uploaded_at: at(7),
            by: "ann".to_owned(),
        },
        trial: json!({ "reusable": true, "vectors": [{ "name": "one" }] }),
        bytes,
    }
}

fn keep(file: PackFile, resigns: Option<&str>) -> crate::control::Write {
    write(Effect::KeepPack { file: Box::new(file), resigns: resigns.map(Into::into) })
}

/// A push of a version.
pub(super) fn pushed(version: &str) -> crate::control::Write {
    keep(file(version, "content", "k"), None)
}

pub(in crate::tests) async fn a_pack_file_is_kept_for_good_under_its_version(store: &Store) {
    assert_eq!(store.pack_file(&"p".into(), "1.0.0").await.unwrap(), None);
    let (first, second) = (file("1.0.0", "one", "k"), file("1.1.0", "two", "k"));
    for made in [&first, &second] {
        assert_eq!(done(store.write(keep(made.clone(), None)).await).rows, 1);
        assert_eq!(done(store.write(keep(made.clone(), None)).await).rows, 0, "the same again");
    }
    let told = store.write(keep(file("1.0.0", "other", "k"), None)).await;
    assert!(matches!(told, Err(WriteError::OtherPack)), "{told:?}");
    let told = store.write(keep(file("1.0.0", "other", "k"), Some("k"))).await;
    assert!(matches!(told, Err(WriteError::OtherPack)), "{told:?}");
    for made in [&first, &second] {
        let kept = store.pack_file(&"p".into(), &made.info.version).await.unwrap();
        assert_eq!(kept.as_ref(), Some(made));
    }
    for (name, version) in [("p", "1.0"), ("p", "1.0.0 "), ("P", "1.0.0"), ("q", "1.0.0")] {
        let kept = store.pack_file(&name.into(), version).await.unwrap();
        assert_eq!(kept, None, "{name} {version}");
    }
    let wanted = [("p", "1.1.0"), ("p", "9.9.9"), ("q", "1.0.0"), ("p", "1.0.0")];
    let wanted = wanted.map(|(name, version)| (PackId::from(name), version.to_owned()));
    let infos = store.pack_infos(wanted.to_vec()).await.unwrap();
    assert_eq!(infos, [second.info, first.info]);
    // What was refused left nothing behind; what was done is in the audit.
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    assert_eq!(store.audit(&all).await.unwrap().len(), 4);
    assert_eq!(store.feed().await.unwrap(), 4);
}

pub(in crate::tests) async fn only_the_signature_of_the_same_pack_is_replaced(store: &Store) {
    let with = |key: &str, seconds| {
        let mut made = file("1.0.0", "one", key);
        made.info.uploaded_at = at(seconds);
        made.trial = json!({ "seconds": seconds });
        made
    };
    done(store.write(keep(with("old", 1), None)).await);
    let told = store.write(keep(with("new", 2), None)).await;
    assert!(matches!(told, Err(WriteError::OtherPack)), "nobody allowed it: {told:?}");
    assert_eq!(done(store.write(keep(with("new", 2), Some("old"))).await).rows, 0);
    // Somebody else was first: the signature that was to be replaced is no longer there.
    let told = store.write(keep(with("third", 3), Some("old"))).await;
    assert!(matches!(told, Err(WriteError::Stale)), "{told:?}");
    let kept = store.pack_file(&"p".into(), "1.0.0").await.unwrap().unwrap();
    let mut expected = with("new", 2);
    expected.trial = json!({ "seconds": 1 });
    assert_eq!(kept, expected, "what was seen of the pack stays");
}

pub(in crate::tests) async fn pack_files_are_bounded(store: &Store) {
    let fill = "WITH RECURSIVE counted(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < $1) \
        INSERT INTO pack_files (name, version, digest, key_id, size, manifest, reusable, image, vectors, trial, uploaded_at, uploaded_by, bytes) \
        SELECT 'x', CAST(n AS TEXT), 'd', 'k', 0, '{}', 1, 1, 0, '{}', 0, 'ann', $2 FROM counted";
    let filled = store.db.write(0, move |connection| {
        let max = i64::try_from(PACKS_MAX).unwrap();
        let fill = sqlx::query(fill).bind(max).bind(Vec::<u8>::new());
        Box::pin(async move { fill.execute(connection).await.map(drop) })
    });
    filled.await.unwrap();
    done(store.write(keep(file("1.0.0", "one", "k"), None)).await);
    let told = store.write(keep(file("1.1.0", "two", "k"), None)).await;
    assert!(matches!(told, Err(WriteError::TooMany(_))), "{told:?}");
    // However many are asked for, each is found.
    let all = (2..=PACKS_MAX).map(|number| (PackId::from("x"), number.to_string()));
    let all: Vec<_> = all.collect();
    let infos = store.pack_infos(all.clone()).await.unwrap();
    let found: Vec<_> = infos.into_iter().map(|info| (info.name, info.version)).collect();
    assert_eq!(found, all);
    assert_eq!(store.pack_file(&"p".into(), "1.1.0").await.unwrap(), None);
    assert_eq!(done(store.write(keep(file("1.0.0", "one", "k"), None)).await).rows, 0);
    let mut large = file("1.0.1", "large", "k");
    large.bytes = vec![0; PACK_BYTES_MAX + 1].into();
    let told = store.write(keep(large, None)).await;
    assert!(matches!(told, Err(WriteError::TooLarge { max: PACK_BYTES_MAX, .. })), "{told:?}");
}

/// Many push the same version at the same moment, half of them with one content, half with another.
pub(in crate::tests) async fn many_push(store: Store) {
    const TASKS: usize = 16;
    let store = Arc::new(store);
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            let content = if task % 2 == 0 { "even" } else { "odd" };
            let pushed = file(version, content, "k");
            tasks.spawn(async move {
                match store.write(keep(pushed, None)).await {
                    Ok(written) => Some((content, written.rows)),
                    Err(WriteError::OtherPack) => None,
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let told: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        let kept = store.pack_file(&"p".into(), version).await.unwrap().unwrap();
        assert_eq!(told.len(), TASKS / 2, "{told:?}");
        for (content, _) in &told {
            assert_eq!(kept, file(version, content, "k"), "one content for all");
        }
        assert_eq!(told.iter().map(|(_, rows)| rows).sum::<u64>(), 1, "one was first");
    }
}

pub(super) fn datum(key: &str, value: impl Into<Bytes>) -> PackDatum {
    let key = key.to_owned();
    PackDatum { pack: "p".into(), key, value: value.into(), at: at(3), by: "ann".to_owned() }
}

async fn put(store: &Store, datum: PackDatum, over: Over) -> Result<(), WriteError> {
    store.write(write(Effect::PutPackData(Box::new(datum), over))).await.map(drop)
}

async fn delete(store: &Store, key: &str, over: Over) -> Result<(), WriteError> {
    let (pack, key) = ("p".into(), key.to_owned());
    store.write(write(Effect::DeletePackData { pack, key, over })).await.map(drop)
}

pub(in crate::tests) async fn what_a_pack_reads_is_what_was_put_last(store: &Store) {
    let pack = PackId::from("p");
    assert_eq!(store.pack_data(&pack).await.unwrap().version, 0);
    put(store, datum("b", "1"), Over::Anything).await.unwrap();
    put(store, datum("a", vec![0, 255]), Over::Nothing).await.unwrap();
    put(store, datum("B", ""), Over::Nothing).await.unwrap();
    put(store, PackDatum { pack: "q".into(), ..datum("b", "q") }, Over::Nothing).await.unwrap();
    put(store, PackDatum { at: at(9), ..datum("b", "2") }, Over::Value("1".into())).await.unwrap();
    let data = store.pack_data(&pack).await.unwrap();
    let b = PackDatum { at: at(9), ..datum("b", "2") };
    assert_eq!(data.entries, [datum("B", ""), datum("a", vec![0, 255]), b.clone()]);
    assert_eq!(store.pack_datum(&pack, "b").await.unwrap(), Some(b));
    // Who changes what is another thing by now changes nothing.
    for (told, case) in [
        (put(store, datum("b", "3"), Over::Value("1".into())).await, "another value"),
        (put(store, datum("b", "3"), Over::Nothing).await, "a value"),
        (put(store, datum("c", "3"), Over::Value("1".into())).await, "no value"),
        (delete(store, "b", Over::Value("1".into())).await, "another value, deleted"),
        (delete(store, "c", Over::Value("1".into())).await, "no value, deleted"),
    ] {
        assert!(matches!(told, Err(WriteError::Stale)), "{case}: {told:?}");
    }
    let told = delete(store, "c", Over::Anything).await;
    assert!(matches!(told, Err(WriteError::NotFound)), "{told:?}");
    assert_eq!(store.pack_data(&pack).await.unwrap(), data);
    // Its version rises with every change, also with one that takes something away; of others it stays.
    let versions = async || store.pack_data_versions().await.unwrap();
    let version = |p, q| BTreeMap::from([("p".into(), p), ("q".into(), q)]);
    assert_eq!((versions().await, data.version), (version(5, 4), 5));
    delete(store, "b", Over::Value("2".into())).await.unwrap();
    delete(store, "a", Over::Anything).await.unwrap();
    assert_eq!(versions().await, version(7, 4));
    assert_eq!(store.feed().await.unwrap(), 7);
    let data = store.pack_data(&pack).await.unwrap();
    assert_eq!((data.version, data.entries), (7, vec![datum("B", "")]));
}

pub(in crate::tests) async fn what_a_pack_reads_is_bounded(store: &Store) {
    let (key, value) = ("k".repeat(DATUM_KEY_MAX), vec![7; DATUM_VALUE_MAX]);
    put(store, datum(&key, value.clone()), Over::Anything).await.unwrap();
    let longer = (format!("{key}k"), vec![7; DATUM_VALUE_MAX + 1]);
    for (datum, most) in
        [(datum(&longer.0, ""), DATUM_KEY_MAX), (datum("k", longer.1), DATUM_VALUE_MAX)]
    {
        let told = put(store, datum, Over::Anything).await;
        assert!(matches!(told, Err(WriteError::TooLarge { max, .. }) if max == most), "{told:?}");
    }
    // Bytes: as many as there may be, then one more. What is replaced makes room.
    for number in 1..DATA_BYTES_MAX / DATUM_VALUE_MAX {
        put(store, datum(&number.to_string(), value.clone()), Over::Anything).await.unwrap();
    }
    let told = put(store, datum("more", "x"), Over::Anything).await;
    assert!(matches!(told, Err(WriteError::TooLarge { max: DATA_BYTES_MAX, .. })), "{told:?}");
    put(store, datum(&key, "short"), Over::Anything).await.unwrap();
    put(store, datum("more", "x"), Over::Anything).await.unwrap();
    // Another pack has its own bounds. Keys: as many as there may be, then one more.
    let other = |key: &str| PackDatum { pack: "q".into(), ..datum(key, "") };
    let fill = "WITH RECURSIVE counted(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < $1) \
        INSERT INTO pack_data (pack, name, put_at, put_by, size, value) \
        SELECT 'q', 'n' || CAST(n AS TEXT), 0, 'ann', 0, $2 FROM counted";
    let filled = store.db.write(0, move |connection| {
        let max = i64::try_from(DATA_KEYS_MAX).unwrap();
        let fill = sqlx::query(fill).bind(max).bind(Vec::<u8>::new());
        Box::pin(async move { fill.execute(connection).await.map(drop) })
    });
    filled.await.unwrap();
    put(store, other("last"), Over::Nothing).await.unwrap();
    let told = put(store, other("more"), Over::Nothing).await;
    assert!(matches!(told, Err(WriteError::TooMany(_))), "{told:?}");
    put(store, other("last"), Over::Anything).await.unwrap();
    assert_eq!(store.pack_data(&"q".into()).await.unwrap().entries.len(), DATA_KEYS_MAX);
}
