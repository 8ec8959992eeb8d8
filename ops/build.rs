//! Asks the linker for a build id in every program, so that a crash can be matched to its debug information.
#![expect(clippy::disallowed_methods, reason = "cargo tells a build script its target by the environment")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg=-Wl,--build-id=sha1");
    }
}
