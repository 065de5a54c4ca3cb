//! A bucket on a store that fails.
#![allow(clippy::unwrap_used)]

use crate::common::{bucket_of, config, content, faulty, file_of};
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::testing::{Fault, Faulty, Op, Rates, quick};
use xylem_objects::{Bucket, BucketConfig, Created, ObjectError, Reason, outcome_unknown};

/// Gives up at once when the store is away.
fn impatient(faulty: &Faulty) -> Bucket {
    let mut retry = quick();
    retry.give_up = xylem_objects::GiveUp::After(Duration::from_millis(100));
    let config = BucketConfig { retry, ..config() };
    Bucket::with_store(Arc::new(faulty.clone()), "test://", config).unwrap()
}

#[test]
fn a_create_whose_answer_was_lost_is_not_a_conflict() {
    let (faulty, bucket) = faulty(1);
    faulty.script(Op::Put, "x", 0, 1, Fault::Lose);
    assert_eq!(bucket.put_new("x", &b"mine"[..]).unwrap(), Created::Done);
    assert_eq!(&bucket.get("x").unwrap()[..], b"mine");
    assert_eq!(bucket.put_new("x", &b"your"[..]).unwrap(), Created::Exists);

    // The same when it is done only after we asked again, and again.
    for n in 0..20 {
        let name = format!("late-{n}");
        let late = Fault::Late(Duration::from_millis(n));
        faulty.script(Op::Put, &name, 0, 3, late);
        assert_eq!(bucket.put_new(&name, &b"mine"[..]).unwrap(), Created::Done);
    }

    // Or when it hangs.
    faulty.script(Op::Put, "hung", 0, 1, Fault::Hang);
    assert_eq!(bucket.put_new("hung", &b"mine"[..]).unwrap(), Created::Done);
}

/// An upload may take long: it is not made again because the look behind it failed.
#[test]
fn a_look_that_fails_does_not_upload_again() {
    let (faulty, bucket) = faulty(1);
    faulty.script(Op::Put, "x", 0, 1, Fault::Lose);
    faulty.script(Op::Get, "x", 0, 5, Fault::Fail);
    assert_eq!(bucket.put_new("x", &b"mine"[..]).unwrap(), Created::Done);
    // Two puts, the lost one and the one that found the name taken; five looks
    // that failed, and one that did not.
    assert_eq!(faulty.requests(), 8);
}

/// Half of our own object is not another writer's.
#[test]
fn a_look_that_is_cut_is_no_conflict() {
    let (faulty, bucket) = faulty(1);
    faulty.script(Op::Put, "x", 0, 1, Fault::Lose);
    faulty.script(Op::Get, "x", 0, 1, Fault::Cut);
    assert_eq!(bucket.put_new("x", &b"mine"[..]).unwrap(), Created::Done);
}

#[test]
fn of_many_writers_of_one_name_one_wins_whatever_is_lost() {
    for seed in 0..5 {
        let (faulty, bucket) = faulty(seed);
        faulty.rates(Rates {
            lose: 150,
            late: 150,
            fail: 50,
            cut: 50,
            ..Rates::default()
        });
        for n in 0..25 {
            let name = format!("numbered/{n:016x}");
            let winners: Vec<String> = std::thread::scope(|s| {
                let writers: Vec<_> = (0..4)
                    .map(|w| {
                        let (bucket, name) = (&bucket, &name);
                        s.spawn(move || {
                            let mine = format!("writer {w}");
                            let put = bucket.put_new(name, mine.clone().into_bytes()).unwrap();
                            (put == Created::Done).then_some(mine)
                        })
                    })
                    .collect();
                let done = writers.into_iter().filter_map(|w| w.join().unwrap());
                done.collect()
            });
            assert_eq!(winners.len(), 1, "{name}: {winners:?}");
            assert_eq!(bucket.get(&name).unwrap(), winners[0].as_bytes());
        }
    }
}

#[test]
fn a_store_that_is_away_is_waited_for_up_to_a_limit() {
    let (faulty, _) = faulty(1);
    let bucket = impatient(&faulty);
    bucket.put_new("there", &b"1"[..]).unwrap();
    faulty.away(true);
    let begin = Instant::now();
    let errors = [
        bucket.get("there").unwrap_err(),
        bucket.put_new("x", &b"1"[..]).unwrap_err(),
        bucket.list("").unwrap_err(),
        bucket.delete("there").unwrap_err(),
        bucket.upload("y", &file_of(b"12"), 2).unwrap_err(),
    ];
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        let text = error.to_string();
        assert!(text.contains("test://"), "{text}");
        assert!(text.contains("attempts in"), "{text}");
        assert!(text.contains("the connection was lost"), "{text}");
        assert!(text.contains("safe to try again"), "{text}");
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(outcome_unknown(&errors[1]) && !outcome_unknown(&errors[0]));
    assert!(bucket.stats().failures >= 5);

    // Doing the same again settles an unknown outcome.
    faulty.heal();
    assert_eq!(bucket.put_new("x", &b"1"[..]).unwrap(), Created::Done);

    // One that comes back in time is not noticed.
    faulty.away(true);
    let back = faulty.clone();
    let waiter = std::thread::spawn({
        let (_, patient) = (0, bucket_of(faulty));
        move || patient.get("there").unwrap()
    });
    #[allow(clippy::disallowed_methods, reason = "the store is away for a while")]
    std::thread::sleep(Duration::from_millis(50));
    back.heal();
    assert_eq!(&waiter.join().unwrap()[..], b"1");
}

#[test]
fn what_is_refused_is_not_tried_again() {
    let (faulty, bucket) = faulty(1);
    faulty.script(Op::Put, "x", 0, 1, Fault::Refuse);
    let before = faulty.requests();
    let error = bucket.put_new("x", &b"1"[..]).unwrap_err();
    assert_eq!(faulty.requests(), before + 1);
    assert_eq!(ObjectError::of(&error).unwrap().reason, Reason::Refused);
    assert!(!outcome_unknown(&error), "it was refused, not lost");
    // After a lost answer, a refusal does not tell what became of the first.
    faulty.script(Op::Put, "y", 0, 1, Fault::Lose);
    faulty.script(Op::Put, "y", 0, 1, Fault::Refuse);
    assert!(outcome_unknown(
        &bucket.put_new("y", &b"1"[..]).unwrap_err()
    ));
}

#[test]
fn downloads_that_break_off_are_made_again() {
    let (faulty, bucket) = faulty(1);
    let bytes = content(100_000, 3);
    bucket.put_new("x", bytes.clone()).unwrap();
    faulty.script(Op::Get, "x", 0, 3, Fault::Cut);
    assert!(bucket.get("x").unwrap() == bytes);
    faulty.script(Op::Get, "x", 0, 3, Fault::Cut);
    assert!(bucket.get_range("x", 10..90_000).unwrap() == bytes[10..90_000]);
}

#[test]
fn an_upload_in_parts_survives_and_appears_whole_or_not_at_all() {
    let part = config().part_bytes;
    let bytes = content(5 * part + 100, 5);
    let file = file_of(&bytes);
    let len = bytes.len() as u64;
    for (op, fault) in [
        (Op::Begin, Fault::Fail),
        (Op::Begin, Fault::Lose),
        (Op::Part, Fault::Fail),
        (Op::Part, Fault::Lose),
        (Op::Part, Fault::Throttle),
        (Op::Complete, Fault::Fail),
        (Op::Complete, Fault::Lose),
        (Op::Complete, Fault::Hang),
    ] {
        for skip in 0..if op == Op::Part { 6 } else { 1 } {
            let (faulty, bucket) = faulty(1);
            faulty.script(op, "x", skip, 1, fault);
            bucket.upload("x", &file, len).unwrap();
            assert_eq!(faulty.injected(), 1);
            assert!(bucket.get("x").unwrap() == bytes, "{op:?} {fault:?} {skip}");
            assert_eq!(bucket.list("").unwrap().len(), 1);
        }
        // A store that goes on failing: an error, and nothing is there.
        let (faulty, _) = faulty(1);
        let bucket = impatient(&faulty);
        faulty.script(op, "x", 0, u32::MAX, fault);
        let done = bucket.upload("x", &file, len);
        if fault == Fault::Lose && op == Op::Complete {
            // It is there, and so it is found.
            done.unwrap();
        } else {
            let error = done.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            faulty.heal();
            assert_eq!(bucket.list("").unwrap(), [], "{op:?} {fault:?}");
        }
    }
}

/// How a store breaks its contract.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    Replaces,
    KeepsButSaysDone,
    ForgetsToDelete,
}
/// A store that breaks its contract.
#[derive(Debug)]
struct Liar(InMemory, Lie);
impl std::fmt::Display for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Liar")
    }
}
#[async_trait]
impl ObjectStore for Liar {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if self.1 == Lie::Replaces {
            opts.mode = PutMode::Overwrite;
        }
        let put = self.0.put_opts(location, payload, opts).await;
        if self.1 == Lie::KeepsButSaysDone && put.is_err() {
            return Ok(PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            });
        }
        put
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.1 {
            Lie::ForgetsToDelete => locations,
            _ => self.0.delete_stream(locations),
        }
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[test]
fn a_store_that_ignores_the_condition_is_refused() {
    for lie in [Lie::Replaces, Lie::KeepsButSaysDone, Lie::ForgetsToDelete] {
        let bucket = bucket_of(Liar(InMemory::new(), lie));
        let error = bucket.check().unwrap_err().to_string();
        let said = match lie {
            Lie::ForgetsToDelete => "a deleted object can still be read",
            _ => "does not honor create-if-absent",
        };
        assert!(error.contains(said), "{lie:?}: {error}");
        assert!(error.contains("test://"), "{error}");
        if lie != Lie::ForgetsToDelete {
            assert_eq!(bucket.list_below("").unwrap(), [], "the check cleans up");
        }
    }
}

#[test]
fn the_check_says_what_failed_and_cleans_up() {
    for (op, said) in [
        (Op::Put, "cannot create objects"),
        (Op::List, "cannot list objects"),
        (Op::Delete, "cannot delete objects"),
    ] {
        let (faulty, bucket) = faulty(1);
        faulty.script(op, "check", 0, 1, Fault::Refuse);
        let error = bucket.check().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(bucket.list_below("").unwrap(), []);
    }
    // Faults that pass are none.
    for seed in 0..20 {
        let (faulty, bucket) = faulty(seed);
        faulty.rates(Rates {
            late: 0,
            ..Rates::some()
        });
        bucket.check().unwrap();
        faulty.heal();
        assert_eq!(bucket.list_below("").unwrap(), []);
    }
}
