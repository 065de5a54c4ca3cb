//! Tests of the parts that need no compute.

use crate::branch::Handle;
use crate::bytes::{Reader, put_counted, put_number};
use crate::conversation::{Conversation, Form};
use crate::history::History;
use crate::kill::{self, FIRST_ID};
use crate::login::{Answer, ChangeUser, Greeting, asks_for_tls, caps};
use crate::packet::{FULL, header};
use crate::proxy;
use crate::refusal::Refusal;
use crate::relay::{Commands, Next, Stopped, copy_commands};
use crate::route::{ATTRIBUTE, Route, Wishes, route};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use proptest::prelude::*;

fn conversation() -> Conversation {
    Conversation::restored(Form::default(), 2, None, History::default())
}

fn wishes<'a>(user: &'a str, database: &'a str) -> Wishes<'a> {
    Wishes {
        user: user.as_bytes(),
        database: database.as_bytes(),
        ..Wishes::default()
    }
}

fn found(wishes: &Wishes<'_>, domain: Option<&str>) -> (Option<String>, String, String) {
    let Route {
        branch,
        user,
        database,
    } = route(wishes, domain).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (branch, text(user), text(database))
}

#[test]
fn a_branch_is_named_in_four_ways() {
    let is = |branch: Option<&str>, user: &str, database: &str| {
        (
            branch.map(str::to_owned),
            user.to_owned(),
            database.to_owned(),
        )
    };
    assert_eq!(found(&wishes("app", "shop"), None), is(None, "app", "shop"));
    assert_eq!(
        found(&wishes("app@dev", ""), None),
        is(Some("dev"), "app", "")
    );
    assert_eq!(
        found(&wishes("app", "shop@feature/x"), None),
        is(Some("feature/x"), "app", "shop")
    );
    // The last one counts: an account may have one in its name.
    assert_eq!(
        found(&wishes("joe@corp@dev", "@dev"), None),
        is(Some("dev"), "joe@corp", "")
    );
    let attribute = Wishes {
        attribute: Some(b"dev"),
        ..wishes("app", "shop")
    };
    assert_eq!(found(&attribute, None), is(Some("dev"), "app", "shop"));
    let named = |server_name| Wishes {
        server_name: Some(server_name),
        ..wishes("app", "shop")
    };
    let domain = Some("db.example.com");
    for (name, branch) in [
        ("dev.db.example.com", Some("dev")),
        ("dev.DB.example.com.", Some("dev")),
        ("db.example.com", None),
        ("devdb.example.com", None),
        ("dev.other.com", None),
        ("com", None),
    ] {
        assert_eq!(
            found(&named(name), domain),
            is(branch, "app", "shop"),
            "{name}"
        );
    }
    assert_eq!(found(&named("dev.db.example.com"), None).0, None);
}

#[test]
fn names_that_contradict_each_other_are_an_error() {
    let error = route(&wishes("app@dev", "shop@main"), None).unwrap_err();
    assert_eq!(error.code, 1049);
    assert!(error.message.contains("'dev'") && error.message.contains("'main'"));
    let same = route(&wishes("app@dev", "shop@dev"), None).unwrap();
    assert_eq!(same.branch.as_deref(), Some("dev"));
    let no_text = Wishes {
        attribute: Some(b"\xff"),
        ..wishes("app", "")
    };
    assert!(route(&no_text, None).is_err());
}

#[test]
fn a_kill_is_found_whatever_surrounds_it() {
    for (statement, number) in [
        ("KILL 5", Some(5)),
        ("kill query 17", Some(17)),
        (
            "  /* by a tool */ Kill Hard Connection\t2147483650 ;",
            Some(2_147_483_650),
        ),
        ("-- note\nKILL SOFT QUERY 3", Some(3)),
        ("# note\nKILL 3", Some(3)),
        ("KILL QUERY ID 9", None),
        ("KILL USER joe", None),
        ("KILL", None),
        ("KILLER 5", None),
        ("SELECT 'KILL 5'", None),
        ("KILL 99999999999", None),
        ("", None),
    ] {
        let found = kill::number(statement.as_bytes()).map(|(_, number)| number);
        assert_eq!(found, number, "{statement}");
        assert!(
            number.is_none() || kill::may_be(statement.as_bytes()),
            "{statement}"
        );
    }
}

fn packet(seq: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(payload.len(), seq).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// The bytes that the compute gets of `bytes`, which arrive in pieces that end at `cuts`.
fn passed(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<u8> {
    let inner = |id: u32| (id == FIRST_ID + 1).then_some(42);
    let conversation = Mutex::new(conversation());
    let mut commands = Commands::new(["dev"; 2], &inner, &conversation);
    let mut out = Vec::new();
    cuts.push(bytes.len());
    let mut held: Vec<u8> = Vec::new();
    let mut from = 0;
    for cut in cuts {
        held.extend_from_slice(&bytes[from..cut]);
        from = cut;
        while !held.is_empty() {
            match commands.next(&held) {
                Next::Pass(count) => {
                    assert_ne!(count, 0);
                    out.extend(held.drain(..count));
                }
                Next::Replace(count, replaced, by) => {
                    out.extend(held.drain(..count));
                    held.drain(..replaced);
                    out.extend(by);
                }
                Next::More => break,
            }
        }
    }
    assert!(held.is_empty());
    out
}

fn kill_of(id: u32) -> Vec<u8> {
    packet(0, format!("\x03KILL QUERY {id}").as_bytes())
}

#[test]
fn only_the_numbers_of_the_gateway_are_changed() {
    let ours = FIRST_ID + 1;
    assert_eq!(passed(&kill_of(ours), Vec::new()), kill_of(42));
    for other in [5, ours + 1] {
        assert_eq!(passed(&kill_of(other), Vec::new()), kill_of(other));
    }
    let command = |id: u32| packet(0, &[&[0x0c][..], &id.to_le_bytes()].concat());
    assert_eq!(passed(&command(ours), Vec::new()), command(42));
    // A prepared statement or a value with such a text is no command.
    let prepared = packet(0, format!("\x16KILL {ours}").as_bytes());
    assert_eq!(passed(&prepared, Vec::new()), prepared);
}

#[test]
fn the_content_of_a_file_is_no_command() {
    // LOAD DATA LOCAL: packets of a file, whose numbers begin anew after 255.
    let kill = format!("\x03KILL {}", FIRST_ID + 1);
    let mut bytes = packet(0, b"\x03LOAD DATA LOCAL INFILE 'f' INTO TABLE t");
    for seq in (2..=255).chain([0, 1]) {
        bytes.extend(packet(seq, kill.as_bytes()));
    }
    bytes.extend(packet(2, b""));
    assert_eq!(passed(&bytes, vec![100, 5000]), bytes);
    // Behind a full packet, the next one continues it.
    let mut full = packet(0, &[&[0x03][..], &vec![b'x'; FULL - 1]].concat());
    full.extend(packet(1, kill.as_bytes()));
    full.extend(kill_of(5));
    assert!(passed(&full, vec![1_000_000]) == full);
}

#[test]
fn a_user_that_changes_stays_on_its_branch() {
    let change = |user: &str, database: &str| {
        let mut body = vec![0x11];
        body.extend(user.as_bytes());
        body.extend([0, 3, 1, 2, 3]);
        body.extend(database.as_bytes());
        body.extend([0, 45, 0]);
        body.extend(b"mysql_native_password\0\x00");
        packet(0, &body)
    };
    let bytes = passed(&change("other@dev", "shop@dev"), vec![3, 9]);
    let changed = ChangeUser::decode(&bytes[5..]).unwrap();
    assert_eq!(
        (changed.user, changed.database),
        (&b"other"[..], &b"shop"[..])
    );
    // The compute asks for the account's plugin again.
    assert!(bytes.windows(13).any(|part| part == b"xylem_gateway"));
    assert!(!bytes.windows(3).any(|part| part == [1, 2, 3]));
    let elsewhere = passed(&change("other@main", ""), Vec::new());
    assert_eq!(
        ChangeUser::decode(&elsewhere[5..]).unwrap().user,
        b"other@main"
    );
}

fn answer() -> Answer {
    Answer {
        caps: caps::PROTOCOL_41
            | caps::SECURE_CONNECTION
            | caps::PLUGIN_AUTH
            | caps::PLUGIN_AUTH_LENENC
            | caps::CONNECT_WITH_DB
            | caps::CONNECT_ATTRS,
        more_caps: 4,
        packet_max: 1 << 24,
        charset: 45,
        user: b"app".to_vec(),
        database: b"shop".to_vec(),
        without_password: false,
        attributes: b"\x04_pid\x017\x0cxylem_branch\x03dev".to_vec(),
    }
}

#[test]
fn an_answer_comes_to_the_compute_as_the_client_gave_it() {
    let answer = answer();
    assert_eq!(Answer::decode(&answer.encode(false)).unwrap(), answer);
    let named = answer.attribute(ATTRIBUTE).unwrap();
    assert_eq!(named, Some(&b"dev"[..]));
    assert_eq!(answer.attribute(b"none").unwrap(), None);
    let without = Answer {
        caps: answer.caps & !caps::CONNECT_WITH_DB,
        database: Vec::new(),
        ..answer.clone()
    };
    assert_eq!(Answer::decode(&without.encode(false)).unwrap(), without);
    // TLS and compression end at the gateway.
    let secure = Answer {
        caps: answer.caps | caps::SSL | caps::COMPRESS,
        ..answer.clone()
    };
    assert_eq!(Answer::decode(&secure.encode(false)).unwrap(), answer);
    let open = Answer {
        without_password: true,
        ..answer.clone()
    };
    assert_eq!(Answer::decode(&open.encode(false)).unwrap(), open);
    let old = [&1_u32.to_le_bytes()[..], &[0; 60]].concat();
    assert_eq!(Answer::decode(&old).unwrap_err().code, 1251);
    assert!(!asks_for_tls(&answer.encode(false)));
    // The request for TLS is the beginning of the answer that follows it.
    let asked = answer.ask_for_tls();
    assert!(asks_for_tls(&asked));
    assert!(answer.encode(true).starts_with(&asked));
}

#[test]
fn a_greeting_comes_back() {
    let greeting = Greeting {
        version: b"5.5.5-10.11.18-MariaDB".to_vec(),
        id: FIRST_ID + 7,
        challenge: *b"abcdefghijklmnopqrst",
        caps: 0x81ff_fffe,
        more_caps: 0x1d,
        charset: 45,
        status: 2,
    };
    assert_eq!(Greeting::decode(&greeting.encode()).unwrap(), greeting);
}

#[test]
fn an_error_has_its_number_and_state() {
    let refusal = Refusal::no_branch("Unknown branch 'x'");
    assert_eq!(refusal.encode(), b"\xff\x19\x04#42000Unknown branch 'x'");
}

#[test]
fn the_header_for_the_compute_tells_the_clients_address() {
    let to = "127.0.0.1:3307".parse().unwrap();
    let v4 = proxy::header("192.0.2.1:4660".parse().unwrap(), to);
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    assert!(v4.starts_with(signature));
    assert_eq!(
        v4[16..],
        [192, 0, 2, 1, 127, 0, 0, 1, 0x12, 0x34, 0x0c, 0xeb]
    );
    assert_eq!(
        proxy::header("[::ffff:192.0.2.1]:4660".parse().unwrap(), to),
        v4
    );
    let v6 = proxy::header("[2001:db8::1]:4660".parse().unwrap(), to);
    assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 52));
}

proptest! {
    #[test]
    fn numbers_of_any_size_come_back(number: u64) {
        let mut bytes = Vec::new();
        put_number(&mut bytes, number);
        prop_assert_eq!(Reader::new(&bytes).number().unwrap(), number);
    }

    #[test]
    fn bytes_behind_their_length_come_back(content in prop::collection::vec(any::<u8>(), 0..700)) {
        let mut bytes = Vec::new();
        put_counted(&mut bytes, &content);
        prop_assert_eq!(Reader::new(&bytes).counted().unwrap(), &content[..]);
    }

    /// Anything may come from the network.
    #[test]
    fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(answer) = Answer::decode(&bytes) {
            let _ = answer.attribute(ATTRIBUTE);
        }
        let _ = Greeting::decode(&bytes);
        let _ = ChangeUser::decode(&bytes);
        let _ = kill::number(&bytes);
    }

    /// However the bytes are cut, the compute gets the same.
    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(0_usize..400, 0..12)) {
        let mut bytes = Vec::new();
        for id in [FIRST_ID + 1, 7, FIRST_ID + 1] {
            bytes.extend(packet(0, b"\x03SELECT 'a value'"));
            bytes.extend(kill_of(id));
            bytes.extend(packet(0, b"\x0e"));
        }
        bytes.extend(packet(0, &[&[0x0c][..], &(FIRST_ID + 1).to_le_bytes()].concat()));
        let whole = passed(&bytes, Vec::new());
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
        cuts.sort_unstable();
        prop_assert_eq!(passed(&bytes, cuts), whole);
    }
}

/// The relay itself, over a pipe that holds little: what comes out does not depend on the
/// pieces in which it went in.
#[tokio::test]
async fn the_relay_holds_back_no_byte_for_good() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let inner = |id: u32| (id == FIRST_ID + 1).then_some(42);
    let comment = format!("/* {} */ ", "c".repeat(50_000));
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.extend(packet(0, b"\x03SELECT 1"));
        sent.extend(packet(
            0,
            format!("\x03{comment}KILL {}", FIRST_ID + 1).as_bytes(),
        ));
        sent.extend(packet(0, &[&[0x03][..], &vec![b'x'; 300_000]].concat()));
        sent.extend(kill_of(FIRST_ID + 1));
    }
    let wanted = passed(&sent, Vec::new());
    assert_ne!(wanted, sent);
    for piece in [1000, 4096, 70_000] {
        let (mut client, mut from) = tokio::io::duplex(5000);
        let (mut to, mut compute) = tokio::io::duplex(3000);
        let sending = async {
            for part in sent.chunks(piece) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let relaying = async {
            let bytes = Counter::default();
            let handle = Handle::new(String::new(), conversation());
            let mut commands = Commands::new(["dev"; 2], &inner, &handle.conversation);
            let stopped = copy_commands(&mut from, &mut to, &mut commands, &handle, &bytes);
            assert_eq!(stopped.await.unwrap(), Stopped::Ended);
            assert_eq!(bytes.get(), sent.len() as u64);
            drop(to);
        };
        let mut got = Vec::new();
        let receiving = compute.read_to_end(&mut got);
        let (_, (), received) = tokio::join!(sending, relaying, receiving);
        received.unwrap();
        assert!(got == wanted, "pieces of {piece}");
    }
}
