//! The build script of every pack: a shadow stack of 32 KiB, so that a decision touches few pages of memory.

fn main() {
    println!("cargo:rerun-if-changed=../link.rs");
    if std::env::var_os("CARGO_CFG_TARGET_ARCH").is_some_and(|arch| arch == "wasm32") {
        println!("cargo:rustc-link-arg-cdylib=-zstack-size=32768");
    }
}
