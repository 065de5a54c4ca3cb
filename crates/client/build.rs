//! Sets two linker options of the shared library. The SONAME makes the preloaded
//! copy and the plugin's dependency the same object for the dynamic linker.
//! `nodelete` keeps the library loaded, because interposed libc functions may
//! still run in it after the plugin is unloaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libxylem_client.so");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
