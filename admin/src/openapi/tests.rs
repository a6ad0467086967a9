use super::openapi;

#[test]
fn dump() {
    std::fs::write("/tmp/a2/openapi.json", serde_json::to_string_pretty(&openapi()).unwrap()).unwrap();
}
