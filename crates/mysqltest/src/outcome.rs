//! The results in the output of `mysql-test-run.pl`.

use std::collections::{BTreeMap, BTreeSet};

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The test passed, perhaps at a second attempt.
    Passed,
    /// The test itself says that it does not apply to this server.
    Skipped,
    /// The test is on Xylem's list of tests that cannot pass.
    Excluded,
    /// MariaDB's own lists disable the test.
    Disabled,
    /// All attempts failed.
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Skipped => "skipped",
            Outcome::Excluded => "excluded",
            Outcome::Disabled => "disabled",
            Outcome::Failed => "failed",
        }
    }
}

/// The results of a run by test and combination: `innodb.alter 'innodb,4k'`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub BTreeMap<String, Outcome>);

impl Outcomes {
    /// Records a line if it is the result of a test. `excluded` says whether a test is on
    /// Xylem's list.
    pub fn take(&mut self, line: &str, excluded: impl Fn(&str) -> bool) -> Option<Outcome> {
        let (before, after) = line.split_once(" [ ")?;
        let (word, _) = after.split_once(" ]")?;
        let before = before.trim_end();
        // With several workers, the worker's number comes last: `w2`.
        let before = match before.rsplit_once(char::is_whitespace) {
            Some((rest, worker)) if is_worker(worker) => rest.trim_end(),
            _ => before,
        };
        if !before.split_whitespace().next()?.contains('.') {
            return None;
        }
        let name = before.split_whitespace().collect::<Vec<_>>().join(" ");
        let outcome = match word {
            "skipped" => Outcome::Skipped,
            "pass" | "retry-pass" | "fail" | "retry-fail" | "disabled" if excluded(&name) => {
                Outcome::Excluded
            }
            "pass" | "retry-pass" => Outcome::Passed,
            "disabled" => Outcome::Disabled,
            "fail" | "retry-fail" | "exp-fail" => Outcome::Failed,
            _ => return None,
        };
        // A passed retry replaces a failure, but not the other way round.
        let kept = self.0.entry(name).or_insert(outcome);
        *kept = (*kept).min(outcome);
        Some(outcome)
    }

    /// The number of tests with a result.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.0.values().filter(|o| **o == outcome).count()
    }

    /// The tests with a result.
    pub fn of(&self, outcome: Outcome) -> BTreeSet<&str> {
        let names = self.0.iter().filter(|(_, o)| **o == outcome);
        names.map(|(name, _)| name.as_str()).collect()
    }

    /// One line per test, for a file.
    pub fn render(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(name, o)| format!("{} {name}\n", o.word()));
        lines.collect()
    }

    /// Reads the output of [`Outcomes::render`].
    pub fn parse(text: &str) -> Outcomes {
        use Outcome::{Disabled, Excluded, Failed, Passed, Skipped};
        let lines = text.lines().filter_map(|line| {
            let (word, name) = line.split_once(' ')?;
            let outcome = [Passed, Skipped, Excluded, Disabled, Failed]
                .into_iter()
                .find(|o| o.word() == word)?;
            Some((name.to_owned(), outcome))
        });
        Outcomes(lines.collect())
    }
}

fn is_worker(word: &str) -> bool {
    word.strip_prefix('w')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
