//! Gives the shared library its SONAME, so that the preloaded copy and the one
//! the plugin is linked with are the same object to the dynamic linker, and
//! keeps it loaded: functions of libc that went through it may come back to it
//! after the plugin is gone.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libxylem_client.so");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
