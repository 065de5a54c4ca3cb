use super::{share, total};

#[test]
fn an_eighth_of_the_smaller_and_512_mib_at_least() {
    const GIB: u64 = 1 << 30;
    assert_eq!(
        total("MemFree: 1 kB\nMemTotal:       24682444 kB\n"),
        Some(24_682_444 * 1024)
    );
    assert_eq!(total("MemTotal: many"), None);
    assert_eq!(share(Some(64 * GIB), None), 8 * GIB);
    assert_eq!(share(Some(64 * GIB), Some(16 * GIB)), 2 * GIB);
    assert_eq!(share(Some(GIB), None), 512 << 20);
    assert_eq!(share(None, None), 512 << 20);
}
