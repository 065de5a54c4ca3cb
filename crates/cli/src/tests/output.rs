//! Text for people, errors and exit statuses.

use crate::app::shell_word;
use crate::failure::{Failure, describe, exit_status};
use crate::output::{bytes, table};
use anyhow::Context;

#[test]
fn tables_line_up() {
    let text = table(
        &["A", "LONG"],
        &[
            vec!["wide cell".into(), "x".into()],
            vec!["é".into(), String::new()],
        ],
    );
    assert_eq!(text, "A          LONG\nwide cell  x\né");
}

#[test]
fn sizes_read_well() {
    assert_eq!(bytes(0), "0 B");
    assert_eq!(bytes(1023), "1023 B");
    assert_eq!(bytes(1536), "1.5 KiB");
    assert_eq!(bytes(5 << 30), "5.0 GiB");
    assert_eq!(bytes(u64::MAX), "16384.0 PiB");
}

#[test]
fn errors_say_what_and_what_to_do() {
    let error = Failure::new("it broke", "mend it");
    assert_eq!(exit_status(&error), 1);
    assert_eq!(describe(&error), "error: it broke\n  hint: mend it");
    let error = Err::<(), _>(error).context("while working").unwrap_err();
    assert_eq!(
        describe(&error),
        "error: while working: it broke\n  hint: mend it"
    );
}

#[test]
fn wrong_usage_is_2_however_deep() {
    let error = Err::<(), _>(Failure::usage("no", ""))
        .context("outer")
        .unwrap_err();
    assert_eq!(exit_status(&error), 2);
    assert_eq!(exit_status(&anyhow::anyhow!("other")), 1);
}

#[test]
fn words_survive_a_shell() {
    assert_eq!(shell_word("/plain/path-1.x"), "/plain/path-1.x");
    assert_eq!(shell_word("it's here"), "'it'\\''s here'");
    assert_eq!(shell_word(""), "''");
}
