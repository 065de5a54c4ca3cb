//! Compiles the protocol files with protox, so that no protoc is needed.

use prost::Message;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["pageserver.proto", "control.proto", "inspect.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // `Bytes` fields, so that pages and redo are passed on without a copy.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
