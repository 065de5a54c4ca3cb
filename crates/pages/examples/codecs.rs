//! What packing blocks costs and saves: `codecs FILE PAGE_BYTES` cuts a data
//! file into blocks and prints size and time for each codec, side by side.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures, by the system's clock"
)]

use std::time::{Duration, Instant};

type Pack = Box<dyn Fn(&[u8]) -> Vec<u8>>;
type Unpack = Box<dyn Fn(&[u8], usize) -> Vec<u8>>;

struct Codec {
    name: &'static str,
    pack: Pack,
    unpack: Unpack,
}

fn zstd(name: &'static str, level: i32) -> Codec {
    Codec {
        name,
        pack: Box::new(move |b| zstd::bulk::compress(b, level).unwrap()),
        unpack: Box::new(|b, n| zstd::bulk::decompress(b, n).unwrap()),
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(size)) = (args.next(), args.next()) else {
        println!("usage: codecs FILE PAGE_BYTES");
        return;
    };
    let bytes = std::fs::read(file).unwrap();
    let size: usize = size.parse().unwrap();
    // Pages that are all zeros are not stored.
    let blocks: Vec<&[u8]> = bytes
        .chunks(size)
        .filter(|b| b.iter().any(|x| *x != 0))
        .collect();
    let total: usize = blocks.iter().map(|b| b.len()).sum();
    println!("{} blocks, {:.1} MB", blocks.len(), total as f64 / 1e6);
    let codecs = [
        Codec {
            name: "lz4",
            pack: Box::new(lz4_flex::block::compress),
            unpack: Box::new(|b, n| lz4_flex::block::decompress(b, n).unwrap()),
        },
        zstd("zstd -1", -1),
        zstd("zstd 1", 1),
        zstd("zstd 3", 3),
        zstd("zstd 6", 6),
        zstd("zstd 9", 9),
    ];
    for codec in &codecs {
        let (mut packing, mut unpacking, mut packed) = (Duration::ZERO, Duration::ZERO, 0);
        for block in &blocks {
            let begin = Instant::now();
            let small = (codec.pack)(block);
            packing += begin.elapsed();
            packed += small.len();
            let begin = Instant::now();
            let back = (codec.unpack)(&small, block.len());
            unpacking += begin.elapsed();
            assert!(back == *block);
        }
        let speed = |time: Duration| total as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{:<8} {:>5.1} %   pack {:>6.0} MB/s   expand {:>6.0} MB/s   {:>5.1} us a block",
            codec.name,
            packed as f64 * 100.0 / total as f64,
            speed(packing),
            speed(unpacking),
            unpacking.as_secs_f64() * 1e6 / blocks.len() as f64,
        );
    }
}
