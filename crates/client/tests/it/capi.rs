//! Compiles a C program against the header and links it with the library.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common;
use crate::common::Server;
use std::process::Command;

#[test]
fn a_c_program_uses_the_library() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("api");
    let here = env!("CARGO_MANIFEST_DIR");
    let library = common::library();
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-std=c99", "-pedantic", "-o"])
        .arg(&program)
        .arg(format!("-I{here}/include"))
        .arg(format!("{here}/tests/c/api.c"))
        .arg(&library)
        .status()
        .unwrap();
    assert!(built.success());
    let out = Command::new(&program)
        .arg(server.addr.port().to_string())
        .env("LD_LIBRARY_PATH", library.parent().unwrap())
        .output()
        .unwrap();
    assert!(
        out.status.success() && out.stdout == b"ok\n",
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    let script = server.script();
    assert_eq!(script.redo(), b"hellohello");
    assert_eq!(script.problems, Vec::<String>::new());
}
