//! Caches that no builder wrote, whose digests are right all the same: what they say costs the steps that it is about, and
//! never the build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde_json::{Value, json};
use solver::exchange::{CONFIG, UNCOMPRESSED};

use crate::kitchen::Kitchen;

/// A cache in a folder that can be changed.
struct Folder(PathBuf);

impl Folder {
    fn blob(&self, digest: &str) -> PathBuf {
        self.0.join("blobs/sha256").join(&digest[7..])
    }

    fn json(&self, path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Keeps a blob; its digest.
    fn put(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        std::fs::write(self.blob(&digest), bytes).unwrap();
        digest
    }

    fn manifest(&self) -> Value {
        let index = self.json(&self.0.join("index.json"));
        self.json(&self.blob(index["manifests"][0]["digest"].as_str().unwrap()))
    }

    /// From now on the cache has this manifest.
    fn set_manifest(&self, bytes: &[u8]) {
        let path = self.0.join("index.json");
        let mut index = self.json(&path);
        index["manifests"][0]["digest"] = json!(self.put(bytes));
        index["manifests"][0]["size"] = json!(bytes.len());
        std::fs::write(path, index.to_string()).unwrap();
    }

    /// Where an index, or an image's manifest, names its config.
    fn place_of_config(manifest: &mut Value) -> &mut Value {
        if manifest["manifests"].is_array() {
            return manifest["manifests"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .find(|e| e["mediaType"] == CONFIG)
                .unwrap();
        }
        &mut manifest["config"]
    }

    fn set_config(&self, bytes: &[u8]) {
        let mut manifest = self.manifest();
        let digest = json!(self.put(bytes));
        let place = Folder::place_of_config(&mut manifest);
        (place["digest"], place["size"]) = (digest, json!(bytes.len()));
        self.set_manifest(manifest.to_string().as_bytes());
    }

    fn config(&self) -> Value {
        let mut manifest = self.manifest();
        self.json(&self.blob(Folder::place_of_config(&mut manifest)["digest"].as_str().unwrap()))
    }

    /// Changes the description of every layer, in the manifest and in the config.
    fn each_layer(&self, mut change: impl FnMut(&mut Value)) {
        let (mut manifest, mut config) = (self.manifest(), self.config());
        let mut moved = BTreeMap::new();
        let list = if manifest["layers"].is_array() { "layers" } else { "manifests" };
        for layer in manifest[list].as_array_mut().unwrap() {
            if layer["mediaType"] != CONFIG {
                let before = layer["digest"].clone();
                change(layer);
                moved.insert(before.to_string(), layer["digest"].clone());
            }
        }
        for layer in config["layers"].as_array_mut().unwrap() {
            if let Some(now) = moved.get(&layer["blob"].to_string()) {
                layer["blob"] = now.clone();
            }
        }
        self.set_manifest(manifest.to_string().as_bytes());
        self.set_config(config.to_string().as_bytes());
    }
}

/// An archive with one file of this name, whatever it is.
fn archive(name: &str, kind: tar::EntryType, link: Option<&str>) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    if let Some(link) = link {
        header.set_link_name_literal(link).unwrap();
    }
    header.set_size(0);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend([0; 1024]);
    out
}

/// From now on the layer is this archive, as it is.
fn replace(folder: &Folder, layer: &mut Value, plain: &[u8]) {
    layer["digest"] = json!(folder.put(plain));
    layer["size"] = json!(plain.len());
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    layer["annotations"][UNCOMPRESSED] = layer["digest"].clone();
}

type Forgery = (&'static str, Box<dyn Fn(&Folder)>);

fn forgeries() -> Vec<Forgery> {
    let mut all: Vec<Forgery> = Vec::new();
    let mut add = |name, forge: Box<dyn Fn(&Folder)>| all.push((name, forge));
    add("a config that is none", Box::new(|folder| folder.set_config(b"larder")));
    add("an empty config", Box::new(|folder| folder.set_config(b"{}")));
    add("a config of other types", Box::new(|folder| folder.set_config(br#"{"layers":7,"records":{"a":[]}}"#)));
    add("brackets", Box::new(|folder| folder.set_config("[".repeat(1 << 20).as_bytes())));
    add(
        "a layer that is not there",
        Box::new(|folder| {
            let mut config = folder.config();
            for record in config["records"].as_array_mut().unwrap() {
                record["layers"] = json!([{ "layer": 4_000_000_000u64, "createdAt": "2026-01-01T00:00:00Z" }]);
            }
            folder.set_config(config.to_string().as_bytes());
        }),
    );
    add(
        "records that are their own inputs",
        Box::new(|folder| {
            let mut config = folder.config();
            for (at, record) in config["records"].as_array_mut().unwrap().iter_mut().enumerate() {
                record["inputs"] = json!([[{ "link": at }]]);
            }
            folder.set_config(config.to_string().as_bytes());
        }),
    );
    add(
        "a chain of 150,000",
        Box::new(|folder| {
            let mut config = folder.config();
            let records = config["records"].as_array_mut().unwrap();
            let digest = records[0]["digest"].clone();
            for _ in 0..150_000 {
                let below = records.len() - 1;
                records.push(json!({ "digest": digest, "inputs": [[{ "link": below }]] }));
            }
            folder.set_config(config.to_string().as_bytes());
        }),
    );
    add("a manifest that is none", Box::new(|folder| folder.set_manifest(b"\0\0")));
    add("a manifest without anything", Box::new(|folder| folder.set_manifest(b"{}")));
    add("layers that nobody describes", Box::new(|folder| folder.each_layer(|layer| layer["annotations"] = json!({}))));
    add(
        "layers that are something else uncompressed",
        Box::new(|folder| {
            folder.each_layer(|layer| layer["annotations"][UNCOMPRESSED] = json!(Digest::of(b"x").to_string()));
        }),
    );
    add(
        "layers of another length",
        Box::new(|folder| {
            folder.each_layer(|layer| layer["size"] = json!(layer["size"].as_u64().unwrap() * 1000));
        }),
    );
    add(
        "layers of an unknown kind",
        Box::new(|folder| {
            folder.each_layer(|layer| layer["mediaType"] = json!("application/x-larder"));
        }),
    );
    add(
        "layers that are no archives",
        Box::new(|folder| {
            folder.each_layer(|layer| replace(folder, layer, &[0x55; 5000]));
        }),
    );
    add(
        "layers that are cut off",
        Box::new(|folder| {
            folder.each_layer(|layer| replace(folder, layer, &archive("f", tar::EntryType::Regular, None)[..300]));
        }),
    );
    all
}

/// Builds with a forged cache in an empty store.
struct Bench {
    kitchen: Kitchen,
    base: PathBuf,
    stores: std::cell::Cell<usize>,
}

impl Bench {
    fn new() -> Option<Bench> {
        let kitchen = Kitchen::new()?;
        let base = testkit::base::tar(kitchen.path("").as_path())?;
        kitchen.write("Dockerfile", "FROM base\nRUN echo one > /a\nRUN cat /a > /b\nRUN cat /b > /c\n");
        Some(Bench { kitchen, base, stores: 0.into() })
    }

    /// What the file of the last step holds, if it is there.
    fn build(&self, name: &str, manifest: bool, forge: &dyn Fn(&Folder)) -> Option<String> {
        let kitchen = &self.kitchen;
        self.stores.set(self.stores.get() + 1);
        let at = |what: &str| kitchen.path(&format!("{what}-{}", self.stores.get()));
        let (folder, root, out) = (Folder(at("cache")), at("store"), at("files"));
        let to = format!("type=local,dest={},mode=max,image-manifest={manifest}", folder.0.display());
        kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        forge(&folder);
        kitchen.larder_in(&root, &["image", "import", "base", self.base.to_str().unwrap()]).ok();
        let from = format!("type=local,src={}", folder.0.display());
        let output = format!("type=local,dest={}", out.display());
        let packed = format!("type=oci,dest={},compression=zstd,force-compression=true", at("packed").display());
        let context = kitchen.context();
        let args = ["build", "--progress", "plain", "--cache-from", &from, "-o", &output, context.to_str().unwrap()];
        let root_of_packed = at("store-of-packed");
        kitchen.larder_in(&root_of_packed, &["image", "import", "base", self.base.to_str().unwrap()]).ok();
        let mut of_packed = args;
        of_packed[6] = &packed;
        kitchen.larder_in(&root_of_packed, &of_packed).ok();
        let ran = kitchen.larder_in(&root, &args);
        assert_eq!(ran.code, 0, "{name}, image-manifest={manifest}: {}", ran.stderr);
        std::fs::read_to_string(out.join("c")).ok()
    }
}

#[test]
fn what_a_forged_cache_says_never_fails_a_build() {
    let Some(bench) = Bench::new() else { return };
    for (name, forge) in forgeries() {
        for manifest in [true, false] {
            let file = bench.build(name, manifest, &*forge);
            assert_eq!(file.as_deref(), Some("one\n"), "{name}, image-manifest={manifest}");
        }
    }
}

/// Whoever can write a cache decides what is in its trees, and about nothing outside of them.
#[test]
fn a_forged_layer_stays_in_its_tree() {
    let Some(bench) = Bench::new() else { return };
    let outside = bench.kitchen.path("outside");
    let up = "../".repeat(20);
    for name in [format!("{up}{}", outside.display()), format!("/a/{up}{}", outside.display())] {
        let plain = archive(&name, tar::EntryType::Regular, None);
        bench.build(&name, true, &|folder| folder.each_layer(|layer| replace(folder, layer, &plain)));
        assert!(!outside.exists(), "{name}");
    }
    std::fs::write(&outside, "secret").unwrap();
    let link = archive("c", tar::EntryType::Link, Some(&format!("{up}{}", outside.display())));
    let file = bench.build("a link", true, &|folder| folder.each_layer(|layer| replace(folder, layer, &link)));
    assert_ne!(file.as_deref(), Some("secret"));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret");
}
