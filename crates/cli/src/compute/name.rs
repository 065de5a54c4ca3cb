//! Names of computes: that of the branch that they write, or `main@1`, `main@2`
//! for read-only ones.

use std::fmt;
use xylem_types::BranchName;

/// A compute's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeName {
    branch: BranchName,
    /// The number of a read-only compute.
    reader: Option<u64>,
}

impl ComputeName {
    /// Reads a name.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(text: &str) -> Result<ComputeName, String> {
        let (branch, reader) = match text.split_once('@') {
            None => (text, None),
            Some((branch, number)) => match number.parse::<u64>() {
                Ok(reader) if reader.to_string() == number => (branch, Some(reader)),
                _ => {
                    return Err(format!(
                        "{text:?} cannot name a compute: use a branch's name, or that of a read-only compute, such as main@1"
                    ));
                }
            },
        };
        let branch = BranchName::parse(branch).map_err(|error| error.to_string())?;
        Ok(ComputeName { branch, reader })
    }

    /// The name as one component of a path: `feature+login@1` of
    /// `feature/login@1`. Different names have different ones.
    pub fn file_name(&self) -> String {
        let branch = self.branch.file_name();
        match self.reader {
            Some(number) => format!("{branch}@{number}"),
            None => branch,
        }
    }

    /// The name whose [`ComputeName::file_name`] is `file`; `None` when there
    /// is none.
    pub fn from_file_name(file: &str) -> Option<ComputeName> {
        let (branch, number) = match file.split_once('@') {
            Some((branch, number)) => (branch, format!("@{number}")),
            None => (file, String::new()),
        };
        let branch = BranchName::from_file_name(branch).ok()?;
        ComputeName::parse(&format!("{branch}{number}")).ok()
    }

    /// The branch that it writes, or shows.
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }

    /// Whether it is the compute of branch `main`, which has a port of its own.
    pub fn is_main(&self) -> bool {
        self.reader.is_none() && self.branch == BranchName::main()
    }

    /// Whether it is read-only.
    pub fn is_reader(&self) -> bool {
        self.reader.is_some()
    }

    /// Its description in a sentence.
    pub fn described(&self) -> String {
        if self.is_reader() {
            format!("the read-only compute {self}")
        } else {
            format!("the compute of branch {self}")
        }
    }
}

impl fmt::Display for ComputeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.branch.fmt(f)?;
        match self.reader {
            Some(number) => write!(f, "@{number}"),
            None => Ok(()),
        }
    }
}

impl From<BranchName> for ComputeName {
    /// The compute that writes it.
    fn from(branch: BranchName) -> ComputeName {
        ComputeName {
            branch,
            reader: None,
        }
    }
}
