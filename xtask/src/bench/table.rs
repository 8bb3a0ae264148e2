//! What was measured so far, as a table: rows that have fewer rounds than others say so.

use anyhow::{Context, Result};

/// Ours and Linux's values of a row, one of each round.
pub(super) type Pair<T = f64> = [Vec<T>; 2];

/// A row: its values, and of the time how long the guest's processor was in use, and dom0's.
#[derive(Clone, Default)]
pub(super) struct Row {
    pub values: Pair,
    pub busy: Pair<[f64; 2]>,
}

/// Calls `round` so many times, until it fails. Whoever called prints what there is then.
pub(super) fn rounds(count: u32, mut round: impl FnMut() -> Result<()>) -> Result<()> {
    for number in 1..=count {
        eprint!("\r  round {number} of {count}");
        round().with_context(|| format!("in round {number} of {count}")).inspect_err(|_| {
            eprintln!("\r  round {number} of {count} failed: medians of what there is; the ratio's least and greatest");
        })?;
    }
    eprintln!("\r  {count} rounds, ours and Linux's in turn: medians; the ratio's least and greatest");
    Ok(())
}

/// The head of a table of [`show`].
pub(super) fn head(what: &str, other: &str) {
    println!("  {what:<34} {:>12} {other:>12} {:>7} {:>13} {:>6}", "ours", "ratio", "", "rounds");
}

/// A row, with its number of rounds.
pub(super) fn show(name: &str, unit: &str, values: &Pair) {
    println!("  {}", line(name, unit, values));
}

fn line(name: &str, unit: &str, values: &Pair) -> String {
    let [ours, linux] = values.each_ref().map(|values| median(values, |value| format!("{}{unit}", digits(value))));
    let [ratio, between] = ratios(&values[0], &values[1]);
    format!("{name:<34} {ours:>12} {linux:>12} {ratio:>7} {between:>13} {:>6}", counts(values))
}

/// A number with two digits at least.
fn digits(value: f64) -> String {
    format!("{value:.*}", usize::from(value < 10.0))
}

/// How long processors were in use.
pub(super) fn show_busy(name: &str, busy: &Pair<[f64; 2]>) {
    let [ours, linux] = busy.each_ref().map(|rounds| {
        let of = |whose: usize| rounds.iter().map(|busy| busy[whose]).collect::<Vec<_>>();
        [0, 1].map(|whose| median(&of(whose), |value| format!("{value:.2}"))).join(" ")
    });
    println!("  {name:<34} {ours:>12} {linux:>12}");
}

/// The median, or a dash where nothing was measured.
pub(super) fn median(values: &[f64], text: impl Fn(f64) -> String) -> String {
    spread(values.to_vec()).map_or("-".into(), |(median, ..)| text(median))
}

/// The median of the ratios of values of one round, and the least and the greatest of them.
pub(super) fn ratios(ours: &[f64], linux: &[f64]) -> [String; 2] {
    match spread(ours.iter().zip(linux).map(|(ours, linux)| ours / linux).collect()) {
        Some((ratio, least, greatest)) => [format!("{ratio:.2}"), format!("{least:.2}..{greatest:.2}")],
        None => ["-", ""].map(str::to_owned),
    }
}

/// How many rounds a row has; where a round has ours alone, both counts.
pub(super) fn counts<T>([ours, linux]: &Pair<T>) -> String {
    match (ours.len(), linux.len()) {
        (ours, linux) if ours == linux => ours.to_string(),
        (ours, linux) => format!("{ours}|{linux}"),
    }
}

/// The median, the least and the greatest of some values.
pub(super) fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (least, greatest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    Some((median, least, greatest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_many_rounds_it_has() {
        let words = |values| line("row", " us", &values).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words([vec![3.0, 1.0, 2.0], vec![1.0, 2.0, 2.0]]),
            ["row", "2.0", "us", "2.0", "us", "1.00", "0.50..3.00", "3"]
        );
        assert_eq!(words([vec![3.0, 1.0], vec![2.0]]), ["row", "2.0", "us", "2.0", "us", "1.50", "1.50..1.50", "2|1"]);
        assert_eq!(words([vec![4.0], vec![]]), ["row", "4.0", "us", "-", "-", "1|0"]);
        assert_eq!(words([vec![], vec![]]), ["row", "-", "-", "-", "0"]);
    }

    #[test]
    fn rounds_end_with_the_one_that_fails() {
        let mut done = 0;
        let outcome = rounds(3, || {
            done += 1;
            anyhow::ensure!(done < 2, "stuck");
            Ok(())
        });
        assert_eq!((done, format!("{:#}", outcome.unwrap_err())), (2, "in round 2 of 3: stuck".into()));
    }
}
