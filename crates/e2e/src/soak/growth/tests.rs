use super::*;

fn series(value: impl Fn(u64) -> f64) -> Series {
    let mut series = Series::default();
    for second in 0..=600 {
        series.push(Duration::from_secs(second), value(second));
    }
    series
}

#[test]
fn a_leak_shows_through_noise() {
    // 0.1 a second, in a value that swings by 200.
    let leak = series(|second| 1_000.0 + 0.1 * second as f64 + 100.0 * (second as f64).sin());
    let growth = leak.growth().unwrap();
    assert!((growth.total - 60.0).abs() < 5.0, "{growth:?}");
    assert!((growth.per_hour - 360.0).abs() < 30.0, "{growth:?}");
}

#[test]
fn what_swings_does_not_grow() {
    let growth = series(|second| (second % 60) as f64).growth().unwrap();
    // A sawtooth that begins and ends a period.
    assert!(growth.total.abs() < 10.0, "{growth:?}");
}

#[test]
fn what_comes_before_the_measurement_does_not_count() {
    let filling = series(|second| second.min(300) as f64);
    let after = filling.since(Duration::from_secs(300)).growth().unwrap();
    assert_eq!((after.mean, after.total), (300.0, 0.0));
    assert!(filling.growth().unwrap().total > 250.0);
}

#[test]
fn a_few_samples_tell_nothing() {
    assert_eq!(
        series(|_| 1.0).since(Duration::from_secs(590)).growth(),
        None
    );
    assert_eq!(Series::default().growth(), None);
}

#[test]
fn a_bound_grows_with_the_value() {
    let bound = Bound {
        amount: 10.0,
        part: 0.5,
    };
    assert_eq!(bound.of(100.0), 60.0);
}
