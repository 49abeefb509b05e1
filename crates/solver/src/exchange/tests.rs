//! The laws of joining, on random caches, and the caches that a real BuildKit exported.

use std::collections::BTreeMap;

use oci::Digest;
use proptest::prelude::*;

use super::{Config, Error, Input, Listing, Moment, Output, Record};

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn config(records: Vec<Record>) -> Config {
    Config::of(records, BTreeMap::new()).unwrap()
}

/// Records that link only to earlier ones, of few digests, so that many are the same key.
fn random() -> impl Strategy<Value = Config> {
    let link = (any::<prop::sample::Index>(), prop::option::weighted(0.2, 0u8..2));
    let inputs = prop::collection::vec(prop::collection::vec(link, 1..3), 0..3);
    let output = prop::option::of((0i64..3, prop::collection::vec(0u8..4, 1..3)));
    prop::collection::vec((0u8..4, inputs, output), 1..10).prop_map(|plans| {
        let mut records: Vec<Record> = Vec::new();
        for (name, inputs, output) in plans {
            let count = records.len();
            let input = |(at, selector): (prop::sample::Index, Option<u8>)| Input {
                selector: selector.map(|s| digest(100 + s)),
                record: at.index(count.max(1)),
            };
            let inputs = if count == 0 { Vec::new() } else { inputs };
            let inputs = inputs.into_iter().map(|list| list.into_iter().map(input).collect()).collect();
            let output = output.map(|(seconds, blobs)| Output {
                created: Moment { seconds, nanos: 0 },
                blobs: blobs.into_iter().map(|b| digest(200 + b)).collect(),
            });
            records.push(Record { digest: digest(name), inputs, output });
        }
        config(records)
    })
}

fn join(a: &Config, b: &Config) -> Config {
    Config::join([a, b]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn joining_is_a_union(a in random(), b in random(), c in random()) {
        prop_assert_eq!(join(&a, &a), a.clone(), "idempotent");
        prop_assert_eq!(join(&a, &b), join(&b, &a), "commutative");
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)), "associative");
        prop_assert_eq!(join(&join(&a, &b), &b), join(&a, &b), "nothing is added twice");
        prop_assert_eq!(Config::join([&a, &b, &c]).unwrap(), join(&join(&a, &b), &c), "all at once");
    }

    #[test]
    fn what_is_written_is_read(a in random()) {
        prop_assert_eq!(Config::parse(&a.to_json()).unwrap(), a.clone());
        prop_assert_eq!(a.names().len(), a.records().len());
    }

    #[test]
    fn bytes_never_panic(text in ".{0,200}", cut in 0usize..400, a in random()) {
        let _ = Config::parse(text.as_bytes());
        let json = a.to_json();
        let _ = Config::parse(&json[..cut.min(json.len())]);
    }

    /// Every digest of either side is still there, and a result where there was one.
    #[test]
    fn nothing_is_lost(a in random(), b in random()) {
        let both = join(&a, &b);
        for record in a.records().iter().chain(b.records()) {
            let found = both.records().iter().filter(|r| r.digest == record.digest && r.output >= record.output);
            prop_assert!(found.count() > 0);
        }
    }
}

fn root(name: u8) -> Record {
    Record { digest: digest(name), inputs: Vec::new(), output: None }
}

fn on(name: u8, keys: &[usize], seconds: i64) -> Record {
    let list = keys.iter().map(|record| Input { selector: None, record: *record }).collect();
    let output =
        Some(Output { created: Moment { seconds, nanos: 0 }, blobs: vec![digest(name), digest(seconds as u8)] });
    Record { digest: digest(name), inputs: vec![list], output }
}

#[test]
fn the_same_key_by_another_way_is_one_record() {
    // Two writers know the base by its layers, each by another manifest too.
    let one = config(vec![root(1), root(9), on(5, &[0, 1], 10), on(6, &[2], 10)]);
    let two = config(vec![root(2), root(9), on(5, &[0, 1], 20), on(6, &[2], 5)]);
    let both = join(&one, &two);
    assert_eq!(both.records().len(), 5, "three roots, two steps");
    let step = both.records().iter().find(|r| r.digest == digest(5)).unwrap();
    assert_eq!(step.inputs[0].len(), 3);
    assert_eq!(step.output.as_ref().unwrap().created.seconds, 20, "the newest result");
}

#[test]
fn a_step_on_its_own_result_makes_no_loop() {
    // The same step twice, changing nothing: both are known by the content 9.
    let twice = config(vec![root(1), root(9), on(5, &[0, 1], 10), on(5, &[2, 1], 11)]);
    assert_eq!(twice.records().len(), 4);
    assert_eq!(join(&twice, &twice), twice);
}

#[test]
fn what_is_wrong_is_said() {
    let parse = |text: &str| Config::parse(text.as_bytes()).unwrap_err();
    let d = digest(1);
    let looped = format!(r#"{{"records":[{{"digest":"{d}","inputs":[[{{"link":0}}]]}}]}}"#);
    assert_eq!(parse(&looped), Error::Loop { what: "records" });
    let empty = format!(r#"{{"records":[{{"digest":"{d}","inputs":[[]]}}]}}"#);
    assert_eq!(parse(&empty), Error::NoAlternative { record: 0, input: 0 });
    let dangling = format!(r#"{{"records":[{{"digest":"{d}","inputs":[[{{"link":3}}]]}}]}}"#);
    assert!(matches!(parse(&dangling), Error::Dangling { index: 3, .. }));
    let result = |layers: &str| {
        format!(
            r#"{{"layers":{layers},"records":[{{"digest":"{d}","layers":[{{"layer":0,"createdAt":"0001-01-01T00:00:00Z"}}]}}]}}"#
        )
    };
    // An absent parent is layer 0: here the layer itself.
    assert_eq!(parse(&result(&format!(r#"[{{"blob":"{d}"}}]"#))), Error::Loop { what: "layers" });
    assert!(matches!(parse(&result("[]")), Error::Dangling { what: "layer", .. }));
    assert!(matches!(parse(&result(&format!(r#"[{{"blob":"{d}","parent":-2}}]"#))), Error::Dangling { .. }));
    assert!(Config::parse(result(&format!(r#"[{{"blob":"{d}","parent":-1}}]"#)).as_bytes()).is_ok());
    assert!(matches!(parse("\"x\""), Error::Json { .. }));
    assert!(Config::parse(b"{}").unwrap().is_empty());
}

#[test]
fn inline_records_have_the_images_layers() {
    let cache = config(vec![root(1), on(5, &[0], 1), on(6, &[0], 2)]);
    let image = [digest(5), digest(1), digest(7)];
    let json = cache.to_inline(&image).unwrap();
    let read = Config::parse_inline(&json, &image).unwrap();
    let five = read.records().iter().find(|r| r.digest == digest(5)).unwrap();
    assert_eq!(five.output.as_ref().unwrap().blobs, [digest(5), digest(1)]);
    assert!(read.records().iter().find(|r| r.digest == digest(6)).unwrap().output.is_none());
    // Not the beginning of the image, but made of its layers.
    let json = cache.to_inline(&[digest(7), digest(5), digest(1)]).unwrap();
    let read = Config::parse_inline(&json, &[digest(7), digest(5), digest(1)]).unwrap();
    let five = read.records().iter().find(|r| r.digest == digest(5)).unwrap();
    assert_eq!(five.output.as_ref().unwrap().blobs, [digest(5), digest(1)]);
    assert_eq!(cache.to_inline(&[digest(7)]), None);
}

/// Reading and writing a cache of BuildKit's gives its own bytes, where BuildKit's order is one that can be known: of two
/// layers with the same blob it depends on how its memory lay.
#[test]
fn buildkits_caches_are_written_as_they_were() {
    let mut same = 0;
    for case in testkit::vectors::cases() {
        let (bytes, manifest) = case.cache_blobs();
        let read = Config::parse(&bytes).unwrap();
        let before = case.cache_config();
        assert_eq!(read.records().len(), before["records"].as_array().unwrap().len(), "{}", case.name);
        assert_eq!(join(&read, &read), read);
        let blobs: Vec<&str> =
            before["layers"].as_array().unwrap().iter().map(|l| l["blob"].as_str().unwrap()).collect();
        let mut distinct = blobs.clone();
        distinct.dedup();
        if distinct.len() == blobs.len() {
            assert_eq!(String::from_utf8(read.to_json()).unwrap(), String::from_utf8(bytes).unwrap(), "{}", case.name);
            same += 1;
        }
        assert_eq!(Config::parse(&read.to_json()).unwrap(), read);
        let document = oci::ManifestOrIndex::decode(&manifest, None).unwrap();
        let listing = Listing::read(&document).unwrap();
        assert!(read.blobs().all(|blob| listing.blobs.contains_key(&blob)), "{}", case.name);
        for form in [super::Form::ImageManifest, super::Form::Index { docker: false }] {
            let (written, _) = listing.write(&read, form, BTreeMap::new()).unwrap();
            let again = Listing::read(&oci::ManifestOrIndex::decode(&written, None).unwrap()).unwrap();
            assert_eq!(again, listing, "{}", case.name);
        }
    }
    assert!(same >= 10 || testkit::vectors::folder().is_none());
}
