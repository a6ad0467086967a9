//! docs/idempotency.md, held to what the code says: its examples of a document are sound, every field of a route has its
//! place, every link leads somewhere. What its programs do is in `retry_recipes`.

use crate::harness::document;
use crate::harness::page::blocks;
use model::config;
use model::upsert::{Prune, upsert};
use serde_json::json;

const PAGE: &str = include_str!("../../docs/idempotency.md");

#[test]
fn its_examples_are_sound_parts_of_a_document() {
    let whole = document::standard("127.0.0.1:9000".parse().unwrap());
    let examples = blocks(PAGE, "yaml");
    assert!(!examples.is_empty());
    for (line, text) in examples {
        let example =
            config::parse(&text).unwrap_or_else(|errors| panic!("line {line}: {errors:?}"));
        let mut merged = upsert(&whole, &example, Prune::Keep);
        merged["format"] = json!(1);
        if let Err(errors) = config::check(&merged) {
            panic!("line {line}: {errors:?}");
        }
    }
}

#[test]
fn every_field_of_a_route_has_its_place_on_the_page() {
    let schema = config::schema();
    let fields = schema["$defs"]["Idempotency"]["properties"].as_object().unwrap().keys();
    let absent: Vec<_> =
        fields.filter(|field| !PAGE.contains(&format!("\n| `{field}` | "))).collect();
    assert_eq!(absent, [""; 0]);
}

#[test]
fn every_link_within_the_page_leads_somewhere() {
    let headings: Vec<String> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-").replace(['\'', ','], ""))
        .collect();
    for part in PAGE.split("](#").skip(1) {
        let name = part.split(')').next().unwrap();
        assert!(headings.iter().any(|heading| heading == name), "#{name} of {headings:?}");
    }
}
