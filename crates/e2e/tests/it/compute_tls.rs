//! TLS on the computes' own ports, and accounts that require TLS.

use crate::gateway::{client, said};
use crate::sleep::Sleepers;
use anyhow::{Context, Result, ensure};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_e2e::{Project, wait_until};
use xylem_tls::authority;

/// The cipher of the session on the compute; empty without TLS.
const CIPHER: &str = "SHOW STATUS LIKE 'Ssl_cipher'";

fn ask(project: &Project, port: u16, args: &[&str]) -> Result<String> {
    let out = client(project, port).args(args).output()?;
    Ok(said(&out))
}

/// The option that trusts an authority of the project.
fn trusting(project: &Project, authority: &str) -> String {
    let path = project.dir().join("tls").join(authority);
    format!("--ssl-ca={}", path.display())
}

fn own_port(project: &Project) -> Result<u16> {
    let port = project.compute_named("main")?["port"].as_u64();
    Ok(u16::try_from(port.context("no port")?)?)
}

#[test]
fn a_computes_own_port_has_tls_of_an_authority_that_is_not_the_servers() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    let project = &sleepers.project;
    let port = own_port(project)?;
    let app = ["-uapp", "-ppw", "-e", CIPHER, "--ssl-verify-server-cert"];
    let computes = trusting(project, "compute-ca.pem");
    let out = ask(project, port, &[&app[..], &[&computes]].concat())?;
    ensure!(out.starts_with("Ssl_cipher\tTLS_"), "{out}");
    // Code in a compute cannot pass for the server or the gateway, nor the other way.
    let servers = trusting(project, "ca.pem");
    let out = ask(project, port, &[&app[..], &[&servers]].concat())?;
    ensure!(out.contains("ERROR 2026"), "{out}");
    let out = ask(project, sleepers.port, &[&app[..], &[&computes]].concat())?;
    ensure!(out.contains("ERROR 2026"), "{out}");
    // Clients of today refuse older versions themselves.
    let versions = project.sql("SELECT @@tls_version")?;
    assert_eq!(versions.trim(), "TLSv1.2,TLSv1.3");
    // Each compute has a key of its own, which others of the machine cannot read.
    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    let pem = |name: &str| -> Result<Vec<u8>> {
        let dir = project.compute_named(name)?["dir"].clone();
        let file = Path::new(dir.as_str().context("no dir")?).join("compute.pem");
        let mode = std::fs::metadata(&file)?.permissions().mode();
        ensure!(mode & 0o037 == 0, "{mode:o}");
        Ok(std::fs::read(file)?)
    };
    ensure!(pem("main")? != pem("dev")?);
    // The next start has the same.
    let before = pem("dev")?;
    project.xylem(&["compute", "stop", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    ensure!(pem("dev")? == before);
    // Without TLS as before.
    let out = ask(
        project,
        port,
        &["-uapp", "-ppw", "--skip-ssl", "-e", CIPHER],
    )?;
    ensure!(out.trim() == "Ssl_cipher", "{out}");
    Ok(())
}

#[test]
fn an_account_that_requires_tls_comes_in_through_the_gateway() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    let project = &sleepers.project;
    project.sql(
        "CREATE USER safe IDENTIFIED BY 'pw' REQUIRE SSL;
         CREATE USER signed IDENTIFIED BY 'pw' REQUIRE X509;
         INSTALL SONAME 'auth_ed25519';
         CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('pw') REQUIRE SSL",
    )?;
    let ca = trusting(project, "ca.pem");
    let secure = ["--ssl", &ca, "--ssl-verify-server-cert"];
    let log_in = |user: &str, password: &str, args: &[&str]| {
        let account = [format!("-u{user}"), format!("-p{password}")];
        let account = account.each_ref().map(String::as_str);
        let select = ["-e", "SHOW STATUS LIKE 'Ssl_cipher'; SELECT CURRENT_USER()"];
        ask(
            project,
            sleepers.port,
            &[&account[..], args, &select].concat(),
        )
    };
    for user in ["safe", "ed"] {
        let out = log_in(user, "pw", &secure)?;
        ensure!(out.starts_with("Ssl_cipher\tTLS_"), "{out}");
        ensure!(out.ends_with(&format!("{user}@%")), "{out}");
        for (password, args) in [("wrong", &secure[..]), ("pw", &["--skip-ssl"])] {
            let out = log_in(user, password, args)?;
            ensure!(out.contains("ERROR 1045"), "{user} {password}: {out}");
        }
    }
    // The client's certificate, if it has one, ends at the gateway.
    let out = log_in("signed", "pw", &secure)?;
    ensure!(out.contains("ERROR 1045"), "{out}");
    // Others have no TLS behind the gateway, which costs both sides.
    let out = log_in("app", "pw", &secure)?;
    ensure!(out == "Ssl_cipher\t\napp@%", "{out:?}");
    let out = log_in("safe", "pw", &[&secure[..], &["--compress"]].concat())?;
    ensure!(out.ends_with("safe@%"), "{out}");

    // Unless the compute wants it of everybody.
    project.sql("SET GLOBAL require_secure_transport = ON")?;
    wait_until("the gateway to ask", Duration::from_secs(10), || {
        Ok(log_in("app", "pw", &secure)?.starts_with("Ssl_cipher\tTLS_"))
    })?;
    let out = log_in("app", "pw", &["--skip-ssl"])?;
    ensure!(
        out.contains("ERROR 1045") || out.contains("ERROR 3159"),
        "{out}"
    );
    Ok(())
}

#[test]
fn a_certificate_of_ones_own_is_served_and_the_gateway_takes_it() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    let project = &sleepers.project;
    project.sql("CREATE USER safe IDENTIFIED BY 'pw' REQUIRE SSL")?;
    // That of another project, in the one file that the compute reads.
    let (clock, entropy) = (Clock::system(), Entropy::system());
    let theirs = tempfile::tempdir()?;
    std::fs::set_permissions(theirs.path(), Permissions::from_mode(0o755))?;
    let names = ["127.0.0.1".to_owned()];
    let pem = theirs.path().join("their.pem");
    authority::ensure_compute(theirs.path(), &pem, &names, &clock, &entropy)?;
    std::fs::set_permissions(&pem, Permissions::from_mode(0o644))?;
    let dir = project.compute_named("main")?["dir"].clone();
    let dir = Path::new(dir.as_str().context("no dir")?);
    let pem = pem.display();
    // The key is in the same file.
    let options = format!("[mariadbd]\nssl-cert = {pem}\n");
    std::fs::write(dir.join("custom.cnf"), options)?;
    project.xylem(&["compute", "stop", "main"])?;
    let ca = trusting(project, "ca.pem");
    let args = ["-usafe", "-ppw", "--ssl", &ca, "-e", CIPHER];
    let out = ask(project, sleepers.port, &args)?;
    ensure!(out.starts_with("Ssl_cipher\tTLS_"), "{out}");
    let ca = format!(
        "--ssl-ca={}",
        theirs.path().join("compute-ca.pem").display()
    );
    let args = [
        "-usafe",
        "-ppw",
        "--ssl-verify-server-cert",
        &ca,
        "-e",
        CIPHER,
    ];
    let out = ask(project, own_port(project)?, &args)?;
    ensure!(out.starts_with("Ssl_cipher\tTLS_"), "{out}");

    // A compute without TLS refuses the account; others come in with TLS at the gateway.
    project.sql(
        "CREATE USER `müller` IDENTIFIED BY 'pw';
         CREATE USER `größe` IDENTIFIED BY 'pw' REQUIRE SSL",
    )?;
    std::fs::write(dir.join("custom.cnf"), "[mariadbd]\nskip-ssl\n")?;
    project.xylem(&["compute", "stop", "main"])?;
    let ca = trusting(project, "ca.pem");
    for (user, wanted) in [("müller", "7"), ("app", "7"), ("safe", "ERROR 1045")] {
        let user = format!("-u{user}");
        let args = [&user, "-ppw", "--ssl", &ca, "-e", "SELECT 7"];
        let out = ask(project, sleepers.port, &args)?;
        ensure!(out.contains(wanted), "{user}: {out}");
    }
    Ok(())
}

/// A client that stays connected.
struct Staying {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Staying {
    fn ask(&mut self, statement: &str) -> Result<String> {
        writeln!(self.to, "{statement};")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_session_with_tls_on_both_ways_survives_the_sleep_of_its_compute() -> Result<()> {
    let sleepers = Sleepers::after("1s")?;
    let project = &sleepers.project;
    project.sql("CREATE USER safe IDENTIFIED BY 'pw' REQUIRE SSL")?;
    let ca = trusting(project, "ca.pem");
    let mut process = client(project, sleepers.port)
        .args(["-usafe", "-ppw", "--ssl", &ca, "--ssl-verify-server-cert"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let to = process.stdin.take().context("no input")?;
    let from = BufReader::new(process.stdout.take().context("no output")?);
    let mut client = Staying { process, to, from };
    let set = client.ask("SET @mine = 7; SELECT CURRENT_USER(), @mine")?;
    assert_eq!(set, "safe@%\t7");
    sleepers.wait_asleep("main")?;
    assert_eq!(client.ask("SELECT CURRENT_USER(), @mine")?, "safe@%\t7");
    Ok(())
}
