//! Tests of what needs no machine: statistics, and parsing what programs and the kernel
//! print.

use crate::alike::differing;
use crate::instructions::total_in;
use crate::limits;
use crate::metrics::Metrics;
use crate::proc::{Sample, switches_in, ticks_in};
use crate::stats::{Better, longest_standstill, median, order, quantile, steadiness};
use crate::{Args, Part, sysbench};
use clap::{CommandFactory, Parser, ValueEnum};
use std::time::Duration;

#[test]
fn median_and_quantiles_are_values_that_were_measured() {
    let values = [5.0, 1.0, 4.0, 2.0, 3.0];
    assert_eq!(median(&values), 3.0);
    assert_eq!(quantile(&values, 0.0), 1.0);
    assert_eq!(quantile(&values, 0.99), 5.0);
    assert_eq!(quantile(&values, 1.0), 5.0);
    assert_eq!(median(&[7.0]), 7.0);
    assert!(median(&[]).is_nan());
}

#[test]
fn a_ratio_above_one_is_better_for_rates_and_times() {
    assert_eq!(Better::Higher.ratio(300.0, 100.0), Some(3.0));
    assert_eq!(Better::Lower.ratio(50.0, 100.0), Some(2.0));
    assert_eq!(Better::Higher.ratio(0.0, 100.0), None);
    assert_eq!(Better::Lower.ratio(50.0, 0.0), None);
    assert_eq!(Better::Lower.ratio(f64::NAN, 1.0), None);
}

#[test]
fn every_side_is_first_and_last_in_turns() {
    assert_eq!(order(0, 3), [0, 1, 2]);
    assert_eq!(order(1, 3), [2, 1, 0]);
    assert_eq!(order(2, 2), [0, 1]);
    assert_eq!(order(3, 2), [1, 0]);
}

#[test]
fn the_worst_second_is_a_part_of_the_median_one() {
    let steady = steadiness(&[100.0, 110.0, 20.0, 90.0, 105.0]);
    assert_eq!(steady.median, 100.0);
    assert_eq!(steady.worst, 0.2);
    assert_eq!(steadiness(&[100.0, 0.0, 100.0]).worst, 0.0);
}

#[test]
fn a_standstill_lasts_until_the_counter_grows_again() {
    let samples = |values: &[(u64, u64)]| {
        let values = values.iter().map(|&(ms, n)| (Duration::from_millis(ms), n));
        longest_standstill(&values.collect::<Vec<_>>())
    };
    let grows = [(0, 1), (50, 2), (100, 3)];
    assert_eq!(samples(&grows), Duration::from_millis(50));
    let stands = [(0, 1), (50, 2), (100, 2), (150, 2), (200, 3), (250, 4)];
    assert_eq!(samples(&stands), Duration::from_millis(150));
    // One that lasts to the end counts, too.
    let ends = [(0, 1), (50, 2), (100, 2), (300, 2)];
    assert_eq!(samples(&ends), Duration::from_millis(250));
    assert_eq!(samples(&[]), Duration::ZERO);
}

const SYSBENCH: &str = "\
sysbench 1.0.20 (using system LuaJIT 2.1.0-beta3)

Running the test with following options:
Number of threads: 16
Report intermediate results every 1 second(s)

Threads started!

[ 1s ] thds: 16 tps: 5312.04 qps: 31920.10 (r/w/o: 0.00/21279.06/10641.04) lat (ms,95%): 5.57 err/s: 0.00 reconn/s: 0.00
[ 2s ] thds: 16 tps: 0.00 qps: 0.00 (r/w/o: 0.00/0.00/0.00) lat (ms,95%): 0.00 err/s: 0.00 reconn/s: 0.00
[ 3s ] thds: 16 tps: 5418.5 qps: 32511.66 (r/w/o: 0.00/21673.77/10837.89) lat (ms,95%): 5.37 err/s: 0.00 reconn/s: 0.00
SQL statistics:
    queries performed:
        read:                            0
        write:                           64612
        other:                           32306
        total:                           96918
    transactions:                        16153  (5381.22 per sec.)
    queries:                             96918  (32287.32 per sec.)
";

#[test]
fn sysbench_reports_are_parsed() {
    assert_eq!(sysbench::seconds(SYSBENCH).unwrap(), [5312.04, 0.0, 5418.5]);
    assert_eq!(sysbench::transactions(SYSBENCH).unwrap(), 16_153);
    assert_eq!(sysbench::per_second(SYSBENCH).unwrap(), 5381.22);
    assert!(sysbench::seconds("transactions: 1 (1 per sec.)").is_err());
    assert!(sysbench::seconds("[ 1s ] thds: 16 tps: much").is_err());
    assert!(sysbench::transactions("FATAL: no connection").is_err());
    assert!(sysbench::per_second("transactions: 5").is_err());
}

const STAT: &str = "4711 (one) (two three) S 1 4711 4711 0 -1 4194560 5306 0 2 0 1234 567 89 10 \
     20 0 37 0 154881 2516582400 60000 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0";
const STATUS: &str = "Name:\tmariadbd\nState:\tS (sleeping)\nCpus_allowed_list:\t0-1\n\
     voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t7\n";

#[test]
fn counters_of_a_process_are_parsed() {
    assert_eq!(ticks_in(STAT).unwrap(), 1234 + 567);
    assert_eq!(switches_in(STATUS).unwrap(), 157);
    assert!(ticks_in("4711 (short) S 1").is_err());
    assert!(switches_in("Name:\tmariadbd\n").is_err());
}

#[test]
fn context_switches_of_new_threads_count_and_those_of_ended_ones_do_not() {
    let sample = |cpu_us, switches: &[(u32, u64)]| Sample {
        cpu_us,
        switches: switches.iter().copied().collect(),
    };
    let before = sample(1000.0, &[(1, 100), (2, 50)]);
    let after = sample(3500.0, &[(1, 130), (3, 5)]);
    let usage = after.since(&before);
    assert_eq!(usage.switches, 35);
    assert_eq!(usage.cpu_us, 2500.0);
}

#[test]
fn this_process_can_be_sampled() {
    let before = Sample::of(std::process::id()).unwrap();
    let pipe = std::thread::spawn(std::thread::current);
    pipe.join().unwrap();
    let after = Sample::of(std::process::id()).unwrap();
    assert!(!before.switches.is_empty() && after.cpu_us >= before.cpu_us);
}

const METRICS: &str = "\
# HELP xylem_ingest_lag_bytes Difference between the two.
# TYPE xylem_ingest_lag_bytes gauge
xylem_ingest_lag_bytes{branch=\"main\"} 0
xylem_ingest_lag_bytes{branch=\"a b\"} 4096
xylem_page_reads_total{branch=\"main\",result=\"cached\"} 12
xylem_page_reads_total{branch=\"main\",result=\"read\"} 30
xylem_memory_used_bytes 1.5e6
# EOF
";

#[test]
fn metrics_are_summed_over_labels() {
    let metrics = Metrics::parse(METRICS);
    assert_eq!(metrics.sum("xylem_ingest_lag_bytes").unwrap(), 4096.0);
    assert_eq!(metrics.sum("xylem_page_reads_total").unwrap(), 42.0);
    assert_eq!(metrics.sum("xylem_memory_used_bytes").unwrap(), 1.5e6);
    // A name that is the beginning of another one.
    assert!(metrics.sum("xylem_page_reads").is_err());
}

#[test]
fn callgrind_dumps_are_parsed() {
    let dump = "version: 1\nsummary: 70546625\n\nfn=(1) main\n0 5\n\ntotals: 70864098\n";
    assert_eq!(total_in(dump), Some(70_864_098));
    assert_eq!(total_in("version: 1\nsummary: 5\n"), None);
}

#[test]
fn limits_are_measured() {
    let limits = limits::measure().unwrap();
    let all = [
        limits.fdatasync,
        limits.tcp_commit,
        limits.unix_commit,
        limits.tcp_page,
        limits.unix_page,
        limits.memcpy,
        limits.crc,
        limits.pread,
    ];
    assert!(all.iter().all(|time| *time > 0.0), "{limits:?}");
    // A round trip takes two system calls on either side at least.
    assert!(limits.tcp_page > limits.memcpy, "{limits:?}");
    assert!(limits::pages_per_second(2).unwrap() > 0.0);
}

#[test]
fn expensive_parts_run_only_when_named() {
    Args::command().debug_assert();
    let all = Args::parse_from(["bench"]);
    assert!(all.wants(Part::Oltp) && all.wants(Part::Scan) && !all.wants(Part::Long));
    assert!(!all.wants(Part::Network) && !all.wants(Part::Gateway));
    for part in Part::value_variants() {
        let name = part.to_possible_value().unwrap();
        let args = Args::parse_from(["bench", "--only", name.get_name()]);
        assert!(args.wants(*part));
        let count = Part::value_variants().iter().filter(|p| args.wants(**p));
        assert_eq!(count.count(), 1);
    }
}

#[test]
fn threads_have_a_default_for_each_part() {
    let args = Args::parse_from(["bench"]);
    assert_eq!(args.threads(&[1, 16]), [1, 16]);
    let args = Args::parse_from(["bench", "--threads", "4,8"]);
    assert_eq!(args.threads(&[1, 16]), [4, 8]);
}

#[test]
fn round_trips_are_two_and_take_time() {
    assert_eq!(Args::parse_from(["bench"]).round_trips_ms, [1, 100]);
    let args = Args::parse_from(["bench", "--round-trips-ms", "2,50"]);
    assert_eq!(args.round_trips_ms, [2, 50]);
    assert!(Args::try_parse_from(["bench", "--round-trips-ms", "0,50"]).is_err());
}

#[test]
fn systems_with_different_character_sets_are_not_alike() {
    let set = |values: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        values.iter().map(owned).collect()
    };
    let one = set(&[
        ("character_set_server", "latin1"),
        ("datadir", "/a"),
        ("innodb_page_server_port", "1"),
        ("innodb_sort_buffer_size", "1048576"),
        ("only_here", "1"),
    ]);
    let other = set(&[
        ("character_set_server", "utf8mb4"),
        ("datadir", "/b"),
        ("innodb_page_server_port", "2"),
        ("innodb_sort_buffer_size", "1048576"),
    ]);
    assert_eq!(
        differing(&one, &other),
        [r#"character_set_server is "latin1" and "utf8mb4""#]
    );
    assert!(differing(&one, &one).is_empty());
}

#[test]
fn a_copier_leads_there_and_back() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().port();
    let copier = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(copier.local_addr().unwrap()).unwrap();
    std::thread::spawn(move || crate::copier::serve(&copier, to));
    near.write_all(b"ping").unwrap();
    let (mut far, _) = server.accept().unwrap();
    let mut got = [0; 4];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
    far.write_all(b"pong").unwrap();
    near.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"pong");
    // One end that goes takes the other with it.
    drop(far);
    assert_eq!(near.read(&mut got).unwrap(), 0);
}
