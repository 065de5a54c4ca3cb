//! Gives the shared library its SONAME, so that the preloaded copy and the one
//! the plugin is linked with are the same object to the dynamic linker.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libxylem_client.so");
}
