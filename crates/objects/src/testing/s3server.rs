//! A real S3 server on this machine: SeaweedFS, which `cargo xtask test`
//! fetches.

use crate::{Bucket, BucketConfig, GiveUp, Retry};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::Entropy;

/// Names the program.
const VARIABLE: &str = "XYLEM_TEST_WEED";
const BUCKET: &str = "xylem";
const KEY: &str = "test-access-key";
const SECRET: &str = "test-secret-key";
/// Runs the program until standard input ends, however our process ends; then
/// leaves nothing of it.
const KEEPER: &str = r#"
"$@" >"$DIR/log" 2>&1 & pid=$!
echo $pid
cat >/dev/null
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
rm -f /tmp/seaweedfs-*-grpc-$MASTER_GRPC.sock /tmp/seaweedfs-*-grpc-$VOLUME_GRPC.sock \
      /tmp/seaweedfs-*-grpc-$FILER_GRPC.sock /tmp/seaweedfs-*-grpc-$S3_GRPC.sock
[ -z "$REMOVE" ] || rm -rf "$DIR"
"#;

/// The server. It dies with this value, and with this process.
pub struct S3Server {
    dir: PathBuf,
    ports: [u16; 8],
    remove: bool,
    running: Mutex<Option<Running>>,
}

struct Running {
    keeper: Child,
    pid: u32,
}

static SHARED: LazyLock<io::Result<S3Server>> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("xylem-s3-{}", std::process::id()));
    S3Server::start_in(&dir, true)
});
static PLACES: AtomicU64 = AtomicU64::new(0);

impl S3Server {
    /// Starts one with an empty bucket; its files go into `dir`.
    ///
    /// # Errors
    /// When the program is not there or does not start.
    pub fn start(dir: &Path) -> io::Result<S3Server> {
        S3Server::start_in(dir, false)
    }

    /// One for all tests of this process, which is started when first used.
    /// Let each test take a [`S3Server::place`] of its own.
    ///
    /// # Errors
    /// As for [`S3Server::start`].
    pub fn shared() -> io::Result<&'static S3Server> {
        SHARED
            .as_ref()
            .map_err(|e| io::Error::new(e.kind(), e.to_string()))
    }

    fn start_in(dir: &Path, remove: bool) -> io::Result<S3Server> {
        let mut attempt = 1;
        loop {
            let server = S3Server {
                dir: dir.to_owned(),
                ports: free_ports()?,
                remove,
                running: Mutex::new(None),
            };
            match server.restart() {
                Ok(()) => return Ok(server),
                // Another process may have taken a port in between.
                Err(_) if server.died() && attempt < 3 => attempt += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether it ended by itself.
    fn died(&self) -> bool {
        let Some(pid) = self.pid() else {
            return false;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Its keeper has not looked yet: a zombie.
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.is_empty() || state.starts_with('Z')
    }

    /// The bucket's URL; [`S3Server::settings`] or [`S3Server::env`] tell how
    /// to reach it.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// A URL in the bucket that no one else in this process has.
    pub fn place(&self) -> String {
        let n = PLACES.fetch_add(1, Ordering::Relaxed);
        format!("s3://{BUCKET}/{}-{n}", std::process::id())
    }

    /// Settings for [`BucketConfig`].
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.pairs("").collect()
    }

    /// The same as environment variables, for other processes.
    pub fn env(&self) -> Vec<(String, String)> {
        self.pairs("AWS_")
            .map(|(k, v)| (k.to_ascii_uppercase(), v))
            .collect()
    }

    fn pairs(&self, prefix: &str) -> impl Iterator<Item = (String, String)> + use<> {
        [
            ("endpoint", format!("http://127.0.0.1:{}", self.s3_port())),
            ("allow_http", "true".to_owned()),
            ("region", "us-east-1".to_owned()),
            ("access_key_id", KEY.to_owned()),
            ("secret_access_key", SECRET.to_owned()),
        ]
        .map(|(key, value)| (format!("{prefix}{key}"), value))
        .into_iter()
    }

    /// Opens `url`, one of this server's.
    ///
    /// # Errors
    /// As for [`Bucket::open`].
    pub fn open(&self, url: &str, retry: Retry) -> io::Result<Bucket> {
        let config = BucketConfig {
            settings: self.settings(),
            retry,
            ..BucketConfig::default()
        };
        Ok(Bucket::open(url, config)?)
    }

    /// Where its S3 protocol is spoken.
    pub fn s3_port(&self) -> u16 {
        self.ports[6]
    }

    /// The server's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.lock().as_ref().map(|r| r.pid)
    }

    /// Kills it as a power failure would. Its data is kept.
    pub fn kill(&self) {
        if let Some(running) = self.running.lock().take() {
            running.end();
        }
    }

    /// Starts it again, after [`S3Server::kill`], where it was.
    ///
    /// # Errors
    /// When the program is not there or does not start.
    pub fn restart(&self) -> io::Result<()> {
        self.kill();
        *self.running.lock() = Some(self.spawn()?);
        self.wait_ready()
    }

    fn spawn(&self) -> io::Result<Running> {
        let program = std::env::var_os(VARIABLE).ok_or_else(|| {
            io::Error::other(format!(
                "{VARIABLE} is not set: run these tests with cargo xtask test, which fetches an S3 \
                 server for them"
            ))
        })?;
        if !Path::new(&program).exists() {
            return Err(io::Error::other(format!(
                "{VARIABLE} names {}, which is not there",
                Path::new(&program).display()
            )));
        }
        std::fs::create_dir_all(&self.dir)?;
        std::fs::write(self.dir.join("identities.json"), identities())?;
        let [
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
            s3,
            s3_grpc,
        ] = self.ports;
        let dir = self.dir.display();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(program)
            .args(["-logtostderr=true", "server"])
            .arg(format!("-dir={dir}"))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-master.port.grpc={master_grpc}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-volume.port.grpc={volume_grpc}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-filer.port.grpc={filer_grpc}"))
            .arg(format!("-filer.localSocket={dir}/filer.sock"))
            .arg("-s3")
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.port.grpc={s3_grpc}"))
            .arg(format!("-s3.config={dir}/identities.json"))
            .arg(format!("-s3.localSocket={dir}/s3.sock"))
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"])
            .args(["-master.telemetry=false", "-master.volumePreallocate=false"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=100"])
            .args(["-volume.minFreeSpace=1", "-volume.preStopSeconds=0"])
            // A leader at once, also after a restart.
            .args(["-master.raftHashicorp", "-master.electionTimeout=300ms"])
            .arg("-master.heartbeatInterval=50ms")
            .env("DIR", &self.dir)
            .env("REMOVE", if self.remove { "1" } else { "" })
            .env("MASTER_GRPC", master_grpc.to_string())
            .env("VOLUME_GRPC", volume_grpc.to_string())
            .env("FILER_GRPC", filer_grpc.to_string())
            .env("S3_GRPC", s3_grpc.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // A process group of its own, so that Ctrl-C on our terminal does not
        // reach it: it ends when we do.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut keeper = command.spawn()?;
        let mut line = String::new();
        if let Some(out) = keeper.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let pid = line.trim().parse().map_err(io::Error::other)?;
        Ok(Running { keeper, pid })
    }

    fn wait_ready(&self) -> io::Result<()> {
        let probe = Retry {
            first_wait: Duration::from_millis(20),
            longest_wait: Duration::from_millis(50),
            give_up: GiveUp::After(Duration::from_millis(200)),
            attempt_timeout: Duration::from_secs(5),
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let bucket = self.open(&self.url(), probe)?;
        let mut n = 0;
        loop {
            n += 1;
            let name = format!("ready-{:x}-{n}", Entropy::system().next()? as u64);
            let ready = bucket
                .put_new(&name, &b"ready"[..])
                .and_then(|_| bucket.delete(&name));
            match ready {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > deadline || self.died() => {
                    let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                    let end: Vec<&str> = log.lines().rev().take(5).collect();
                    return Err(io::Error::other(format!(
                        "the S3 server does not get ready: {e}; its log ends, backwards: {end:#?}"
                    )));
                }
                Err(_) => {}
            }
        }
    }
}

impl Running {
    fn end(mut self) {
        // The end of its input is what the keeper waits for.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server's only user: this process.
fn identities() -> String {
    format!(
        r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    )
}

/// Ports that are free now.
fn free_ports() -> io::Result<[u16; 8]> {
    let mut listeners = Vec::new();
    let mut ports = [0; 8];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
