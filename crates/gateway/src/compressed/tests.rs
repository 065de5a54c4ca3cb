//! Compressed packets that were written by hand, and those that come back.

use super::{Compressed, INPUT_BYTES, PAYLOAD_BYTES, REST_BYTES_MAX, Reading};
use crate::conversation::Form;
use crate::packet::{FULL, header};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection: what arrives piece by piece, and what was sent.
#[derive(Default)]
struct Wire {
    arrives: VecDeque<Vec<u8>>,
    /// Nothing follows.
    is_over: bool,
    sent: Vec<u8>,
    /// The most that it takes at once, with a pause behind each; 0: all.
    takes: usize,
    pauses: bool,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(front) = self.arrives.front_mut() else {
            return match self.is_over {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        };
        let count = front.len().min(to.remaining());
        to.put_slice(&front[..count]);
        front.drain(..count);
        if front.is_empty() {
            self.arrives.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pauses = !self.pauses && self.takes > 0;
        if self.pauses {
            return Poll::Pending;
        }
        let count = match self.takes {
            0 => from.len(),
            takes => from.len().min(takes),
        };
        self.sent.extend_from_slice(&from[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A connection on which nothing has arrived.
fn idle() -> Compressed<Wire> {
    Compressed::new(Wire::default(), Vec::new(), Form::default())
}

fn says(stream: &mut Compressed<Wire>, bytes: &[u8]) {
    if !bytes.is_empty() {
        stream.stream.arrives.push_back(bytes.to_vec());
    }
}

/// Reads what is there, `room` bytes at a time.
fn read(stream: &mut Compressed<Wire>, room: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut piece = vec![0; room];
        let mut to = ReadBuf::new(&mut piece);
        match Pin::new(&mut *stream).poll_read(&mut cx(), &mut to) {
            Poll::Pending => {
                assert!(to.filled().is_empty(), "lost");
                return Ok(all);
            }
            Poll::Ready(read) => read?,
        }
        match to.filled() {
            [] => return Ok(all),
            more => all.extend_from_slice(more),
        }
    }
}

/// The same of a connection that has said this and ends.
fn read_whole(said: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = idle();
    says(&mut stream, said);
    stream.stream.is_over = true;
    read(&mut stream, 4096)
}

fn write(stream: &mut Compressed<Wire>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        if let Poll::Ready(taken) = Pin::new(&mut *stream).poll_write(&mut cx(), bytes) {
            let taken = taken.unwrap();
            assert!(taken > 0);
            bytes = &bytes[taken..];
        }
    }
    while Pin::new(&mut *stream).poll_flush(&mut cx()).is_pending() {}
}

/// A compressed packet as the documentation has it.
fn frame(number: u8, payload: &[u8], inflated: usize) -> Vec<u8> {
    let mut out = header(payload.len(), number).to_vec();
    out.extend_from_slice(&header(inflated, 0)[..3]);
    out.extend_from_slice(payload);
    out
}

fn plain(number: u8, payload: &[u8]) -> Vec<u8> {
    frame(number, payload, 0)
}

fn deflated(number: u8, payload: &[u8]) -> Vec<u8> {
    frame(number, &compress_to_vec_zlib(payload, 6), payload.len())
}

/// Zlib data of one stored block, byte by byte as RFC 1950 and 1951 have them.
fn stored(payload: &[u8]) -> Vec<u8> {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in payload {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let count = payload.len() as u16;
    let mut out = vec![0x78, 0x01, 1];
    out.extend(count.to_le_bytes());
    out.extend((!count).to_le_bytes());
    out.extend_from_slice(payload);
    out.extend((b << 16 | a).to_be_bytes());
    out
}

fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), number)[..], payload].concat()
}

/// Compressed packets: each one's number, whether it is deflated, and its packets.
fn frames(mut bytes: &[u8]) -> Vec<(u8, bool, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(&[a, b, c, number, d, e, f]) = bytes.first_chunk() {
        let count = u32::from_le_bytes([a, b, c, 0]) as usize;
        let inflated = u32::from_le_bytes([d, e, f, 0]) as usize;
        let payload = &bytes[7..7 + count];
        bytes = &bytes[7 + count..];
        if inflated == 0 {
            all.push((number, false, payload.to_vec()));
        } else {
            let payload = decompress_to_vec_zlib(payload).unwrap();
            assert_eq!(payload.len(), inflated);
            assert!(count < inflated);
            all.push((number, true, payload));
        }
    }
    assert!(bytes.is_empty(), "half of a compressed packet");
    all
}

/// The numbers of the packets.
fn numbers(mut packets: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(&head) = packets.first_chunk() {
        all.push(head[3]);
        packets = &packets[4 + crate::packet::length(head)..];
    }
    all
}

#[test]
fn the_examples_of_the_documentation_are_read() {
    let statement = b"\x2e\0\0\0\x03select \"012345678901234567890123456789012345\"";
    let long = b"\x22\0\0\0\x32\0\0\
        \x78\x9c\xd3\x63\x60\x60\x60\x2e\x4e\xcd\x49\x4d\x2e\x51\x50\x32\x30\x34\x32\x36\x31\
        \x35\x33\xb7\xb0\xc4\xcd\x52\x02\x00\x0c\xd1\x0a\x6c";
    assert_eq!(read_whole(long).unwrap(), statement);
    let short = b"\x0d\0\0\0\0\0\0\x09\0\0\0\x03SELECT 1";
    assert_eq!(read_whole(short).unwrap(), b"\x09\0\0\0\x03SELECT 1");
    let by_hand = frame(0, &stored(statement), statement.len());
    assert_eq!(read_whole(&by_hand).unwrap(), statement);
    // None of it is read before.
    for cut in 0..=long.len() {
        let mut stream = Compressed::new(Wire::default(), long[..cut].to_vec(), Form::default());
        says(&mut stream, &long[cut..]);
        assert_eq!(read(&mut stream, 7).unwrap(), statement, "{cut}");
        assert_eq!(stream.ahead.capacity(), 0);
    }
}

#[test]
fn packets_and_compressed_packets_are_cut_anywhere() {
    let long = packet(0, &[b"\x03SELECT '", &[b'x'; 300][..], b"'"].concat());
    let close = packet(0, b"\x19\x01\0\0\0");
    let commands = [&close[..], &close, &long].concat();
    for cut in 1..commands.len() {
        let (first, second) = commands.split_at(cut);
        let bytes = [deflated(0, first), plain(1, b""), deflated(2, second)].concat();
        assert_eq!(read_whole(&bytes).unwrap(), commands, "{cut}");
    }
    let bytes = [plain(0, &close), plain(0, &close), deflated(0, &long)].concat();
    for cut in 0..bytes.len() {
        for room in [1, 5, 4096] {
            let mut stream = idle();
            says(&mut stream, &bytes[..cut]);
            let mut got = read(&mut stream, room).unwrap();
            says(&mut stream, &bytes[cut..]);
            got.extend(read(&mut stream, room).unwrap());
            assert_eq!(got, commands, "{cut}, {room}");
            assert!(matches!(stream.reading, Reading::Header(_, 0)));
        }
    }
}

#[test]
fn damaged_compressed_packets_are_refused() {
    let command = packet(0, &[b"\x03", &[b'a'; 100][..]].concat());
    let data = compress_to_vec_zlib(&command, 6);
    let refused = |bytes: &[u8], why: &str| {
        let error = read_whole(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}, not {why}");
    };
    let inflated = command.len();
    refused(&frame(0, &data, inflated + 1), "fewer bytes");
    refused(&frame(0, &data, FULL), "fewer bytes");
    refused(&frame(0, &data, inflated - 1), "more bytes");
    refused(&frame(0, &data, 1), "more bytes");
    refused(&frame(0, &[&data[..], b"x"].concat(), inflated), "behind");
    let zero = frame(0, b"", inflated);
    refused(&zero, "claims 105 bytes and has none");
    // Whatever is cut off.
    for cut in 1..data.len() {
        refused(&frame(0, &data[..cut], inflated), "without an end");
    }
    let whole = frame(0, &data, inflated);
    for cut in 1..whole.len() {
        refused(&whole[..cut], " ends in its ");
    }
    let raw = plain(0, &command);
    for cut in 1..raw.len() {
        let read = read_whole(&raw[..cut]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    // The checksum, and all else.
    let data = stored(&command);
    for at in 0..data.len() {
        let mut wrong = data.clone();
        // The other bits of the block's header have no meaning.
        wrong[at] ^= if at == 2 { 2 } else { 0x10 };
        assert!(read_whole(&frame(0, &wrong, inflated)).is_err(), "{at}");
    }
    refused(&frame(0, b"no zlib data at all", 100), "damaged");
}

#[test]
fn no_packet_is_passed_whole_before_its_checksum_is() {
    let command = packet(0, &[b"\x03", &[b'a'; 10_000][..]].concat());
    let mut data = compress_to_vec_zlib(&command, 6);
    let check = data.split_off(data.len() - 4);
    let head = &frame(0, &[&data[..], &check].concat(), command.len())[..7];
    let mut stream = idle();
    says(&mut stream, &[head, &data].concat());
    let mut got = read(&mut stream, 512).unwrap();
    assert_eq!(got, command[..command.len() - 1]);
    says(&mut stream, &check[..3]);
    assert_eq!(read(&mut stream, 512).unwrap(), b"");
    says(&mut stream, &check[3..]);
    got.extend(read(&mut stream, 512).unwrap());
    assert_eq!(got, command);
}

#[test]
fn the_numbers_of_compressed_packets_are_those_of_mariadb() {
    let ping = packet(0, b"\x0e");
    let ok = packet(1, &[0; 7]);
    // Each command begins with 0, whatever was before.
    let mut stream = idle();
    for _ in 0..3 {
        says(&mut stream, &plain(0, &ping));
        assert_eq!(read(&mut stream, 64).unwrap(), ping);
        write(&mut stream, &ok);
        let sent = std::mem::take(&mut stream.stream.sent);
        assert_eq!(frames(&sent), [(1, false, ok.clone())]);
    }
    for (numbers, is_right) in [
        (&[0_u8, 1, 2][..], true),
        (&[1], false),
        (&[0, 0], false),
        (&[0, 2], false),
        (&[0, 1, 1], false),
        (&[0, 1, 0], false),
        (&[255], false),
    ] {
        // Parts of one command.
        let command = packet(0, b"\x03SELECT 1");
        let mut parts = command.chunks(4);
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| plain(*number, parts.next().unwrap()))
            .collect();
        let mut stream = idle();
        says(&mut stream, &bytes);
        match read(&mut stream, 64) {
            Ok(_) => assert!(is_right, "{numbers:?}"),
            Err(error) => {
                assert!(!is_right && error.to_string().contains("number"), "{error}");
            }
        }
    }
    // More of them than there are numbers, in both directions.
    let command = packet(0, &[3; 600]);
    let mut stream = idle();
    for (nth, byte) in command.iter().enumerate() {
        says(&mut stream, &plain(nth as u8, &[*byte]));
    }
    assert_eq!(read(&mut stream, 64).unwrap(), command);
    for nth in 1..600_u32 {
        write(&mut stream, &packet(nth as u8, b"row"));
    }
    let first = command.len() as u32;
    for ((number, _, row), nth) in frames(&stream.stream.sent).iter().zip(first..) {
        assert_eq!((*number, row[3]), (nth as u8, nth as u8));
    }
}

#[test]
fn a_file_has_numbers_that_the_compute_takes() {
    // As MariaDB's client numbers its packets, and another one.
    let (mut stream, mut file, mut got) = (idle(), Vec::new(), Vec::new());
    says(&mut stream, &plain(0, &packet(0, b"\x03DO 1; LOAD DATA")));
    read(&mut stream, 64).unwrap();
    write(
        &mut stream,
        &[packet(1, &[0; 7]), packet(2, b"\xfbfile")].concat(),
    );
    let answer = frames(&stream.stream.sent);
    assert_eq!((answer.len(), answer[0].0), (1, 1));
    assert_eq!(numbers(&answer[0].2), [1, 2]);
    // The next compressed packet has the number 2, and so has its first packet.
    for nth in 0..700_u32 {
        file.extend(packet(2_u32.wrapping_add(nth) as u8, b"1\n2\n3\n"));
    }
    let mut number = 2_u8;
    for part in file.chunks(1000) {
        says(&mut stream, &deflated(number, part));
        number += 1;
        got.extend(read(&mut stream, 100).unwrap());
    }
    says(&mut stream, &plain(number, &packet(number, b"")));
    got.extend(read(&mut stream, 100).unwrap());
    // The compute goes on from its own 2.
    let wanted: Vec<u8> = (3..=703_u32).map(|nth| nth as u8).collect();
    assert_eq!(numbers(&got), wanted);
    stream.stream.sent.clear();
    write(&mut stream, &packet(704_u32 as u8, &[0; 7]));
    let answer = frames(&stream.stream.sent);
    // As MariaDB has it: the packet has the number of its compressed packet.
    assert_eq!((answer[0].0, answer[0].2[3]), (number + 1, number + 1));
    // The next command is one.
    says(&mut stream, &plain(0, &packet(0, b"\x0e")));
    assert_eq!(numbers(&read(&mut stream, 9).unwrap()), [0]);
}

#[test]
fn a_command_of_several_packets_has_numbers_that_the_compute_takes() {
    let mut stream = idle();
    // MariaDB's client numbers each of them 0, and does not begin a compressed packet with
    // each.
    let whole = [packet(0, &vec![3; FULL]), packet(0, b"rest")].concat();
    let mut got = Vec::new();
    for (nth, part) in whole.chunks(FULL).enumerate() {
        says(&mut stream, &deflated(nth as u8, part));
        got.extend(read(&mut stream, 60_000).unwrap());
    }
    assert_eq!(numbers(&got), [0, 1]);
    // The compute answers behind its packets, which are as many as the compressed ones here.
    write(&mut stream, &packet(2, &[0; 7]));
    let answer = frames(&stream.stream.sent);
    assert_eq!((answer[0].0, answer[0].2[3]), (2, 2));
}

#[test]
fn answers_to_commands_that_were_sent_ahead_have_numbers_of_their_own() {
    let query = packet(0, b"\x03SELECT 1");
    let mut all = vec![plain(0, &query), plain(0, &packet(0, b"\x19\x01\0\0\0"))];
    // Its answer begins with the number 4.
    all.extend(
        (0..)
            .zip(query.chunks(4))
            .map(|(nth, part)| plain(nth, part)),
    );
    all.push(plain(0, &packet(0, b"\x0e")));
    let result: Vec<u8> = (1..=5).flat_map(|nth| packet(nth, &[0; 20])).collect();
    let answers = [&result[..], &result, &packet(1, &[0; 7])].concat();
    for cut in 0..answers.len() {
        let mut stream = idle();
        says(&mut stream, &all.concat());
        read(&mut stream, 64).unwrap();
        write(&mut stream, &answers[..cut]);
        write(&mut stream, &answers[cut..]);
        let mut firsts = Vec::new();
        let mut last = None;
        let mut got = Vec::new();
        for (number, _, packets) in frames(&stream.stream.sent) {
            if last != Some(number.wrapping_sub(1)) {
                firsts.push(number);
            }
            last = Some(number);
            got.extend(packets);
        }
        assert_eq!(firsts, [1, 4, 1], "{cut}");
        // MariaDB's numbers.
        assert_eq!(numbers(&got), [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 1], "{cut}");
    }
}

#[test]
fn each_result_of_an_answer_has_a_compressed_packet_of_its_own() {
    const MORE: u8 = 8;
    let column = b"\x03def\x00\x00\x00\x01a\x00\x0c?\x00\x01\x00\x00\x00\x08\x80\x00\x00\x00\x00";
    let ok = |status: u8| [0, 0, 0, status, 0, 0, 0];
    let end = |status: u8| [0xfe, 0, 0, status, 0];
    let answer: [&[u8]; 10] = [
        &ok(MORE),
        b"\x02",
        column,
        column,
        &end(MORE),
        // Rows, which look like an answer that others follow.
        &ok(MORE),
        &[0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, MORE],
        &end(MORE),
        &ok(MORE),
        &ok(0),
    ];
    let answer: Vec<u8> = (1..)
        .zip(answer)
        .flat_map(|(number, payload)| packet(number, payload))
        .collect();
    for cut in 0..answer.len() {
        let mut stream = idle();
        says(
            &mut stream,
            &plain(0, &packet(0, b"\x03SELECT 1; SELECT 2")),
        );
        read(&mut stream, 64).unwrap();
        write(&mut stream, &answer[..cut]);
        write(&mut stream, &answer[cut..]);
        let mut of_results = Vec::new();
        let mut expected = 0;
        for (number, _, packets) in frames(&stream.stream.sent) {
            expected += 1;
            assert_eq!(number, expected, "{cut}");
            of_results.push((number, packets));
        }
        // A cut is one more somewhere.
        assert!((4..=5).contains(&of_results.len()), "{cut}");
        if cut == 0 {
            let numbers: Vec<_> = of_results.iter().map(|(_, all)| numbers(all)).collect();
            assert_eq!(numbers, [vec![1], (2..=8).collect(), vec![3], vec![4]]);
        }
    }
}

#[test]
fn what_is_short_or_gets_no_shorter_is_not_deflated() {
    let deflates = |payload: &[u8]| {
        let mut stream = idle();
        write(&mut stream, &packet(1, payload));
        let all = frames(&stream.stream.sent);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].2, packet(1, payload));
        all[0].1
    };
    assert!(!deflates(&[b'x'; 45]));
    assert!(deflates(&[b'x'; 46]));
    let mut random = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    })
    .take(1000)
    .collect();
    assert!(!deflates(&noise));
    // A megabyte of the same costs little.
    let mut stream = idle();
    write(&mut stream, &packet(1, &vec![b'x'; 1 << 20]));
    assert!(
        stream.stream.sent.len() < 4000,
        "{}",
        stream.stream.sent.len()
    );
    assert_eq!(frames(&stream.stream.sent).len(), 2);
}

#[test]
fn a_packet_is_in_two_compressed_packets_at_most() {
    let sizes = [
        100,
        20_000,
        200_000,
        50,
        1_000_000,
        3000,
        1_200_000,
        3_000_000,
        60,
        (1 << 20) + (64 << 10) + 5,
        FULL,
        100_000,
        70_000,
        64 << 10,
        7,
    ];
    let mut packets = Vec::new();
    let mut ends = Vec::new();
    for (number, size) in (1..).zip(sizes) {
        packets.extend(packet(number, &vec![number; size]));
        ends.push(packets.len());
    }
    let mut stream = idle();
    // As the compute's bytes come, with a flush behind each.
    for piece in packets.chunks(4096) {
        write(&mut stream, piece);
    }
    let frames = frames(&stream.stream.sent);
    let sent: Vec<u8> = frames.iter().flat_map(|frame| frame.2.clone()).collect();
    assert_eq!(sent, packets);
    let mut cuts = Vec::new();
    let mut at = 0;
    for frame in &frames {
        at += frame.2.len();
        cuts.push(at);
    }
    let mut begin = 0;
    for end in ends {
        let inside = cuts.iter().filter(|cut| (begin + 1..end).contains(cut));
        assert!(inside.count() <= 1, "{begin}..{end}: {cuts:?}");
        begin = end;
    }
    assert!(stream.plain.is_empty() && stream.out.is_empty());
    // None is large beside what the compute sends at a time, whatever its packets are.
    let deflated = frames.iter().filter(|frame| frame.1);
    let largest = deflated.map(|frame| frame.2.len()).max();
    assert!(largest.is_some_and(|largest| largest < REST_BYTES_MAX + 2 * PAYLOAD_BYTES));
    assert!(frames.iter().any(|frame| frame.2.len() > 15 << 20));
}

#[test]
fn a_large_packet_that_stops_midway_has_sent_what_came() {
    let whole = packet(1, &vec![7; 3 << 20]);
    let mut stream = idle();
    for piece in whole[..2 << 20].chunks(4096) {
        write(&mut stream, piece);
    }
    assert!(stream.plain.is_empty() && stream.out.is_empty());
    let before = stream.stream.sent.len();
    // The end of the stream adds nothing that would pass for the rest.
    let end = Pin::new(&mut stream).poll_shutdown(&mut cx());
    assert!(matches!(end, Poll::Ready(Ok(()))));
    assert_eq!(stream.stream.sent.len(), before);
}

#[test]
fn an_idle_client_has_no_buffers_and_a_claim_costs_nothing() {
    let mut stream = idle();
    let head = &frame(0, &[0; 9], FULL)[..3 + 1];
    let head = [head, &[0xff; 3]].concat();
    says(&mut stream, &head);
    assert_eq!(read(&mut stream, 4096).unwrap(), b"");
    let Reading::Deflated(payload) = &stream.reading else {
        panic!("a header is not read");
    };
    assert!(payload.state.is_none() && payload.input.capacity() <= INPUT_BYTES);
    // What is almost a megabyte as it is has no buffer at all.
    let mut stream = idle();
    says(&mut stream, &plain(0, &packet(0, &vec![3; 1 << 20]))[..20]);
    read(&mut stream, 4096).unwrap();
    assert!(matches!(stream.reading, Reading::Plain(_)));

    // 16 MiB in 16 KiB come in pieces.
    let bomb = packet(0, &vec![3; FULL - 4]);
    let mut stream = idle();
    let bytes = deflated(0, &bomb);
    assert!(bytes.len() < 20_000);
    says(&mut stream, &bytes);
    let (mut piece, mut all) = ([0; 1000], 0);
    while all < bomb.len() {
        let mut to = ReadBuf::new(&mut piece);
        let read = Pin::new(&mut stream).poll_read(&mut cx(), &mut to);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        all += to.filled().len();
        if let Reading::Deflated(payload) = &stream.reading {
            assert!(payload.input.capacity() <= INPUT_BYTES);
        }
    }
    assert!(matches!(stream.reading, Reading::Header(_, 0)));
    write(&mut stream, &packet(1, &vec![0; 100_000]));
    assert_eq!(stream.out.capacity() + stream.ahead.capacity(), 0);
    // Neither have further commands that were sent ahead.
    let mut stream = idle();
    for _ in 0..5000 {
        says(&mut stream, &plain(0, &packet(0, b"\x0e")));
    }
    read(&mut stream, 4096).unwrap();
}

/// Cuts bytes into pieces of these lengths, again and again.
fn cut<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*length).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let noise = prop::collection::vec(any::<u8>(), 1..400);
    let same = (any::<u8>(), 1..9000_usize).prop_map(|(byte, count)| vec![byte; count]);
    prop::collection::vec(prop_oneof![noise, same], 1..12)
}

fn lengths(max: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..max, 1..6)
}

proptest! {
    #[test]
    fn commands_come_as_they_were_sent(
        payloads in payloads(),
        in_frames in lengths(3000),
        in_pieces in lengths(700),
        room in 1..5000_usize,
        deflate: bool,
    ) {
        let (mut packets, mut bytes) = (Vec::new(), Vec::new());
        for payload in payloads {
            let command = packet(0, &payload);
            for (nth, part) in cut(&command, &in_frames).into_iter().enumerate() {
                bytes.extend(match deflate {
                    true => deflated(nth as u8, part),
                    false => plain(nth as u8, part),
                });
            }
            packets.extend(command);
        }
        let (mut stream, mut got) = (idle(), Vec::new());
        for piece in cut(&bytes, &in_pieces) {
            says(&mut stream, piece);
            got.extend(read(&mut stream, room).unwrap());
        }
        prop_assert_eq!(got, packets);
        prop_assert!(matches!(stream.reading, Reading::Header(_, 0)));
    }

    #[test]
    fn answers_come_as_they_were_written(
        payloads in payloads(),
        writes in lengths(3000),
        takes in 0..2000_usize,
    ) {
        let packets: Vec<u8> = payloads
            .iter()
            .zip(1..)
            .flat_map(|(payload, number)| packet(number, payload))
            .collect();
        let mut stream = idle();
        stream.stream.takes = takes;
        for part in cut(&packets, &writes) {
            write(&mut stream, part);
        }
        let sent = frames(&stream.stream.sent);
        let got: Vec<u8> = sent.iter().flat_map(|(_, _, packets)| packets.clone()).collect();
        prop_assert_eq!(got, packets);
        for ((number, deflated, packets), nth) in sent.iter().zip(1_u32..) {
            prop_assert_eq!(*number, nth as u8);
            prop_assert!(!deflated || packets.len() >= 50);
        }
    }

    /// Anything may come from the network.
    #[test]
    fn garbage_ends_the_connection_and_no_more(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_whole(&bytes);
        let _ = read_whole(&[&[100, 0, 0, 0, 100, 0, 0][..], &bytes].concat());
        let mut stream = idle();
        write(&mut stream, &bytes);
        frames(&stream.stream.sent);
    }
}
