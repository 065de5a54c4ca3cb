//! The archive of `cargo xtask package` in a minimal Debian 12, which has no
//! compiler, no MariaDB and none of the libraries that MariaDB needs.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use xylem_e2e::free_ports;

/// The script that runs in the minimal Debian, with the archive unpacked to `$1`.
const SCRIPT: &str = r#"
set -eu
mount -t proc proc /proc
for program in cc rustc cargo mariadbd; do
    if command -v "$program"; then echo "there is a $program"; exit 1; fi
done
export PATH="$PATH:$1/bin"
cd /root
trap 'xylem down >&2' EXIT
xylem up --detach --buffer-pool 16M --mysql-port "$2" --grpc-port "$3" --http-port "$4" \
    --gateway-port "$5" >&2
xylem sql -e "CREATE DATABASE shop; CREATE TABLE shop.orders (item VARCHAR(40)); INSERT INTO shop.orders VALUES ('chair')"
xylem branch create dev >&2
xylem sql -e "INSERT INTO shop.orders VALUES ('lamp')"
xylem compute kill main >&2
rm -r .xylem/computes/main/data
xylem compute start main >&2
xylem sql -e "SELECT COUNT(*) FROM shop.orders" -- --batch --skip-column-names
xylem sql dev -e "SELECT COUNT(*) FROM shop.orders" -- --batch --skip-column-names
xylem doctor >&2
"#;

#[test]
fn the_archive_runs_on_a_minimal_debian() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can change the root directory");
        return Ok(());
    }
    let given = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .with_context(|| format!("{name} is not set: run this with cargo xtask test"))
    };
    let (archive, debian) = (given("XYLEM_TEST_PACKAGE")?, given("XYLEM_TEST_DEBIAN")?);
    let dir = tempfile::Builder::new()
        .prefix("xylem-package-")
        .tempdir()?;
    let root = dir.path().join("root");
    run(Command::new("cp").arg("--archive").arg(&debian).arg(&root))?;
    let opt = root.join("opt");
    run(Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&opt))?;
    let unpacked = std::fs::read_dir(&opt)?
        .next()
        .context("the archive is empty")??
        .file_name();
    let ports = free_ports(4)?;
    // A process namespace of its own, so that no process outlives it.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "chroot"])
        .arg(&root)
        .args(["/bin/sh", "-c", SCRIPT, "sh"])
        .arg(PathBuf::from("/opt").join(unpacked))
        .args(ports.iter().map(u16::to_string))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .stdin(Stdio::null());
    let out = run(&mut command)?;
    let counts: Vec<&str> = out.lines().rev().take(2).collect();
    ensure!(counts == ["1", "2"], "rows of dev and main: {out}");
    Ok(())
}

/// Runs a command; returns what it prints.
fn run(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        out.status.success(),
        "{} failed ({}):\n{}\n{}",
        command.get_program().display(),
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
