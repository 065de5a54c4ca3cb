//! What `mysql-test-run.pl` said, test by test.

use std::collections::{BTreeMap, BTreeSet};

/// How one test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It passed, perhaps at a second attempt.
    Passed,
    /// It said itself that it does not apply to this server.
    Skipped,
    /// It is on the list of what cannot pass here.
    Excluded,
    /// MariaDB's own lists disable it.
    Disabled,
    /// It failed each time.
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

/// All tests of a run, each with its combination: `innodb.alter 'innodb,4k'`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub BTreeMap<String, Outcome>);

impl Outcomes {
    /// Takes note of a line if it tells how a test went. `excluded` says
    /// whether a test is on our list.
    pub fn take(&mut self, line: &str, excluded: impl Fn(&str) -> bool) -> Option<Outcome> {
        let (before, after) = line.split_once(" [ ")?;
        let (word, _) = after.split_once(" ]")?;
        let before = before.trim_end();
        // With several workers their number comes last: `w2`.
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
        // A retry that passes makes good a failure, not the other way round.
        let kept = self.0.entry(name).or_insert(outcome);
        *kept = (*kept).min(outcome);
        Some(outcome)
    }

    /// How many went so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.0.values().filter(|o| **o == outcome).count()
    }

    /// Those that went so.
    pub fn of(&self, outcome: Outcome) -> BTreeSet<&str> {
        let names = self.0.iter().filter(|(_, o)| **o == outcome);
        names.map(|(name, _)| name.as_str()).collect()
    }

    /// One line for each test, to be kept.
    pub fn render(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(name, o)| format!("{} {name}\n", o.word()));
        lines.collect()
    }

    /// What [`Outcomes::render`] wrote.
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
