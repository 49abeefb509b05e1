//! Lays the functions that a cached build runs side by side in the binary: it lasts milliseconds, and finding its code in
//! ten times as many pages takes one of them. `startup.ld` says which; `bench/startup.py` writes it.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=startup.ld");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    // Linking in a hurry is for the profile of tests. And not every linker that somebody chose knows such scripts: GNU's and
    // LLVM's do, and one of them is what there is without a choice.
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = env::var_os("RUSTC_LINKER").is_some() || flags.contains("link") || flags.contains("fuse-ld");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !chosen {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=larder=-Wl,-T,{folder}/startup.ld");
    }
}
