//! Bytes arrive in order and whole, whatever the system has room for.

use super::{
    PATIENCE, Shared, accept, certificates, client, narrow, pair, receive_all, server, sockets,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use xylem_channel::{Channel, Wait};

/// Sends `bytes` in pieces of random sizes, of which some wait for room and some do not.
fn send(channel: &Channel, bytes: &[u8], seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sent = 0;
    while sent < bytes.len() {
        let size = random.random_range(1..200_000).min(bytes.len() - sent);
        let (one, two) = bytes[sent..sent + size].split_at(size / 3);
        let wait = match random.random_bool(0.5) {
            true => Wait::Yes,
            false => Wait::No,
        };
        match channel.send(&[IoSlice::new(one), IoSlice::new(two)], wait) {
            Ok(count) => sent += count,
            // Whatever comes next begins with the same bytes.
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn transfers_both_ways(one: Channel, other: Channel) {
    let (one, other): (Shared, Shared) = (Arc::new(one), Arc::new(other));
    let there = noise(3_000_000, 1);
    let back = noise(2_500_000, 2);
    std::thread::scope(|scope| {
        let receiving = [
            scope.spawn(|| receive_all(&one)),
            scope.spawn(|| receive_all(&other)),
        ];
        let sending = [
            scope.spawn(|| send(&one, &there, 3)),
            scope.spawn(|| send(&other, &back, 4)),
        ];
        for sending in sending {
            sending.join().unwrap();
        }
        one.end(Shutdown::Write);
        other.end(Shutdown::Write);
        let [at_one, at_other] = receiving.map(|receiving| receiving.join().unwrap());
        assert!(at_one == back, "what came back is not what was sent");
        assert!(at_other == there, "what arrived is not what was sent");
    });
}

#[test]
fn both_directions_at_once_with_little_room_neither_mix_nor_block_each_other() {
    let (one, other) = pair(narrow());
    transfers_both_ways(one, other);
}

#[test]
fn without_tls_it_is_the_same() {
    let (one, other) = narrow();
    transfers_both_ways(Channel::plain(one), Channel::plain(other));
}

#[test]
fn a_receiver_that_must_not_wait_does_not() {
    for (one, other) in [pair(sockets()), {
        let (one, other) = sockets();
        (Channel::plain(one), Channel::plain(other))
    }] {
        let mut room = [0; 100];
        let nothing = other.receive(&mut room, Wait::No).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        let sent = one.send(&[IoSlice::new(b"hello")], Wait::Yes).unwrap();
        assert_eq!(sent, 5);
        other.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        while got.len() < 5 {
            let count = other.receive(&mut room, Wait::Yes).unwrap();
            got.extend_from_slice(&room[..count]);
        }
        assert_eq!(got, b"hello");
        let nothing = other.receive(&mut room, Wait::No).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn half_a_record_is_no_bytes_yet() {
    // Between the two ends, the test passes bytes on as the network does.
    let dir = tempfile::tempdir().unwrap();
    let paths = certificates(dir.path(), "db.example.com");
    let ((one, far), (near, other)) = (sockets(), sockets());
    let accepting = accept(other, &server(&paths, false));
    let passing = std::thread::spawn({
        let (far, near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        move || {
            let mut from = [(&far, &near), (&near, &far)];
            let mut room = [0; 8192];
            // The handshake: one flight each way, and the client's last words.
            for _ in 0..3 {
                let (from_here, mut to_there) = from[0];
                let count = (&mut { from_here }).read(&mut room).unwrap();
                to_there.write_all(&room[..count]).unwrap();
                from.swap(0, 1);
            }
        }
    });
    let one = client(&paths)
        .connect(one, "db.example.com", &mut || Ok(()))
        .unwrap();
    let other = accepting.join().unwrap().unwrap();
    passing.join().unwrap();

    one.send(&[IoSlice::new(&[7; 1000])], Wait::Yes).unwrap();
    let mut record = [0; 4096];
    let count = (&far).read(&mut record).unwrap();
    assert!(count > 1000);
    let mut room = [0; 2000];
    for part in [&record[..3], &record[3..500], &record[500..count - 1]] {
        (&near).write_all(part).unwrap();
        let nothing = other.receive(&mut room, Wait::No).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        other
            .socket()
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let nothing = other.receive(&mut room, Wait::Yes).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    }
    (&near).write_all(&record[count - 1..count]).unwrap();
    other.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(other.receive(&mut room, Wait::Yes).unwrap(), 1000);
}

#[test]
fn what_is_decrypted_already_is_there_without_a_call_to_the_system() {
    let (one, other) = pair(sockets());
    one.send(&[IoSlice::new(&[7; 50_000])], Wait::Yes).unwrap();
    other.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut room = [0; 1000];
    let mut got = other.receive(&mut room, Wait::Yes).unwrap();
    // The rest comes in records of 16 KiB; each is whole as soon as it begins.
    while got < 50_000 {
        match other.receive(&mut room, Wait::No) {
            Ok(count) => got += count,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(got, 50_000);
}

#[test]
fn a_receiver_that_waits_returns_when_the_connection_is_ended_or_its_time_is_over() {
    let (one, other) = pair(sockets());
    let mut room = [0; 10];
    let limit = Duration::from_millis(20);
    one.socket().set_read_timeout(Some(limit)).unwrap();
    let late = one.receive(&mut room, Wait::Yes).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::WouldBlock);
    other.end(Shutdown::Both);
    one.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(one.receive(&mut room, Wait::Yes).unwrap(), 0);
}

#[test]
fn bytes_that_somebody_changed_are_not_received() {
    let (one, other) = pair(sockets());
    // As somebody on the way would: an application record that no key made.
    let forged = [&[0x17, 3, 3, 0, 32][..], &[9; 32]].concat();
    one.socket().send(&forged).unwrap();
    other.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    let error = other.receive(&mut [0; 100], Wait::Yes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    // And nothing after it.
    one.send(&[IoSlice::new(b"x")], Wait::Yes).unwrap();
    assert!(other.receive(&mut [0; 100], Wait::Yes).is_err());
}
