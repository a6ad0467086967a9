//! docs/limits.md, held to what the document's code says: every example is a sound part of a document, and every field has
//! its place on the page.

use crate::harness::document;
use crate::harness::page::blocks;
use model::config;
use model::upsert::{Prune, upsert};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../docs/limits.md");
/// What the page explains, by the names of the schema.
const EXPLAINED: &[&str] =
    &["Limit", "LimitScope", "Adaptive", "UpstreamLimit", "Backoff", "BackoffPer", "Charge"];

#[test]
fn every_example_is_a_sound_part_of_a_document() {
    let whole = document::standard("127.0.0.1:9000".parse().unwrap());
    let examples = blocks(PAGE, "yaml");
    assert!(examples.len() >= 9, "the page has examples: {}", examples.len());
    for (line, text) in examples {
        let example =
            config::parse(&text).unwrap_or_else(|errors| panic!("line {line}: {errors:?}"));
        let mut merged = upsert(&whole, &example, Prune::Keep);
        // Routes of an example stand in the place of those that there are.
        let named = |list: &str| -> BTreeSet<String> {
            let entries = example[list].as_array().into_iter().flatten();
            entries.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        };
        for list in ["plans", "routes", "tenants", "upstreams"] {
            let known = merged[list].as_array().unwrap();
            let is_there = |id: &String| known.iter().any(|entry| entry["id"] == **id);
            assert!(named(list).iter().all(is_there), "line {line}: {list}");
        }
        merged["format"] = json!(1);
        if let Err(errors) = config::check(&merged) {
            panic!("line {line}: {errors:?}");
        }
    }
}

#[test]
fn every_field_of_limits_has_its_place_on_the_page() {
    let schema = config::schema();
    let mut absent = Vec::new();
    for name in EXPLAINED {
        let of = &schema["$defs"][name];
        assert!(of.is_object(), "{name}");
        let fields = of["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
        let choices = of["oneOf"].as_array().into_iter().flatten();
        let choices = choices.filter_map(|choice| choice["const"].as_str());
        for word in fields.map(String::as_str).chain(choices) {
            if !PAGE.contains(&format!("`{word}")) {
                absent.push(format!("{name}.{word}"));
            }
        }
    }
    for (of, word) in [("Tenant", "billing_day"), ("Route", "cost_from_response_header")] {
        assert!(schema["$defs"][of]["properties"][word].is_object() && PAGE.contains(word));
    }
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

/// What the page shows of headers is what the code writes for the plan that it shows.
#[test]
fn the_headers_that_are_shown_are_those_of_the_plan_that_is_shown() {
    let plans = blocks(PAGE, "yaml").into_iter().map(|(_, text)| config::parse(&text).unwrap());
    let plan: Value = plans.into_iter().next().unwrap()["plans"][0].clone();
    let told: Vec<String> = plan["limits"].as_array().unwrap().iter().map(policy).collect();
    let line = format!("RateLimit-Policy: {}\n", told.join(", "));
    assert!(PAGE.contains(&line), "{line}");
}

fn policy(limit: &Value) -> String {
    use model::quota::{Kind, Limit, LimitMode, OnStoreError, Per, fields};
    let text = |field: &str| limit[field].as_str().unwrap_or_default();
    let number = |field: &str| limit[field].as_u64().and_then(|number| u32::try_from(number).ok());
    let kind = match (text("rate").parse(), text("quota").parse(), number("concurrency")) {
        (Ok(rate), _, _) => Kind::Rate { rate, burst: number("burst").unwrap() },
        (_, Ok(quota), _) => Kind::Quota(quota),
        (_, _, slots) => Kind::Concurrency(slots.unwrap()),
    };
    let limit = Limit {
        id: text("id").into(),
        kind,
        per: Per::Tenant,
        exact: false,
        mode: LimitMode::Enforce,
        on_store_error: OnStoreError::Local,
    };
    fields::policy([&limit]).unwrap().to_str().unwrap().to_owned()
}
