//! The config's identity is the same here and in TypeScript: both read the same vectors.

use serde::Deserialize;
use serde_json::Value;
use wire::ConfigHash;
use wire::config::canonical;

#[derive(Deserialize)]
struct Vector {
    name: String,
    json: String,
    canonical: String,
    sha256: String,
}

#[test]
fn canonical_json_and_its_hash_agree_with_typescript() {
    let file =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/sdk/typescript/test/vectors/canonical.json");
    let vectors: Vec<Vector> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(vectors.len() > 150);
    for Vector { name, json, canonical: expected, sha256 } in vectors {
        let value: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(String::from_utf8(canonical(&value)).unwrap(), expected, "{name}");
        assert_eq!(ConfigHash::of(&value).as_str(), sha256, "{name}");
    }
}
