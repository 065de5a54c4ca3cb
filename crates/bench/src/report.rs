//! One line per figure: stock, Xylem, and their ratio.

/// Whether higher or lower values are better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times.
    Lower,
}

/// Prints the header of the table.
pub fn heading() {
    println!("{:<44} {:>12} {:>12} {:>12}", "", "stock", "xylem", "ratio");
    println!("{:<44} {:>12} {:>12} {:>12}", "", "", "", "(1 = equal,");
    println!("{:<44} {:>12} {:>12} {:>12}", "", "", "", "more is better)");
}

/// Prints a figure of stock MariaDB and Xylem: medians over the turns.
pub fn pair(name: &str, unit: &str, better: Better, stock: &[f64], xylem: &[f64]) {
    let (stock, xylem) = (median(stock), median(xylem));
    let ratio = match better {
        Better::Higher => xylem / stock,
        Better::Lower => stock / xylem,
    };
    println!(
        "{:<44} {stock:>12.1} {xylem:>12.1} {ratio:>12.2}",
        format!("{name}, {unit}")
    );
}

/// Prints a figure of Xylem in two cases, and the ratio of the second to the first.
pub fn beside(name: &str, unit: &str, better: Better, one: (&str, f64), other: (&str, f64)) {
    let ratio = match better {
        Better::Higher => other.1 / one.1,
        Better::Lower => one.1 / other.1,
    };
    println!(
        "{name}, {unit}: {} {:.1}, {} {:.1}, ratio {ratio:.2}",
        one.0, one.1, other.0, other.1
    );
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
