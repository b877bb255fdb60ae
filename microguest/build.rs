//! Links the image at fixed low addresses, without a C library, when the feature `image` is on.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=guest.ld");
    if env::var_os("CARGO_FEATURE_IMAGE").is_none() {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("-Wl,-T,{folder}/guest.ld");
    let arguments = [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        script.as_str(),
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bin=microguest={argument}");
    }
}
