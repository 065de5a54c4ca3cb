//! The tree of branches, drawn.

use crate::output::{bytes, table};
use crate::report::branch::BranchReport;

/// All branches, or `root` and those below it, each below its parent.
pub fn tree(branches: &[BranchReport], root: Option<&str>) -> String {
    let mut rows = Vec::new();
    let tops = branches.iter().filter(|branch| match root {
        Some(name) => branch.name == name,
        None => branch.parent.is_none(),
    });
    for top in tops {
        rows.push(row(top, top.name.clone()));
        below(branches, top, "", &mut rows);
    }
    let head = [
        "BRANCH",
        "BRANCH POINT",
        "LSN",
        "OWN",
        "WAL",
        "LAYERS",
        "SHARED",
    ];
    table(&head, &rows)
}

/// The child branches of `parent`, and theirs.
fn below(
    branches: &[BranchReport],
    parent: &BranchReport,
    indent: &str,
    rows: &mut Vec<Vec<String>>,
) {
    let mut child_branches: Vec<&BranchReport> = branches
        .iter()
        .filter(|branch| branch.parent.as_deref() == Some(parent.name.as_str()))
        .collect();
    child_branches.sort_by_key(|branch| (branch.branch_point_lsn, branch.name.clone()));
    for (at, child) in child_branches.iter().enumerate() {
        let last = at + 1 == child_branches.len();
        let (twig, next) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        rows.push(row(child, format!("{indent}{twig}{}", child.name)));
        below(branches, child, &format!("{indent}{next}"), rows);
    }
}

fn row(branch: &BranchReport, name: String) -> Vec<String> {
    let (branch_point, shared) = match branch.parent {
        Some(_) => (
            branch.branch_point_lsn.to_string(),
            bytes(branch.ancestors_layer_bytes),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    vec![
        name,
        branch_point,
        branch.last_lsn.to_string(),
        bytes(branch.own_bytes),
        bytes(branch.wal_bytes),
        bytes(branch.layer_bytes),
        shared,
    ]
}
