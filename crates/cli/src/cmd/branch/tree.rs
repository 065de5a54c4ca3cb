//! The tree of branches, drawn.

use crate::output::{bytes, table};
use crate::report::BranchReport;

/// All branches, or those from `root` on, each below the one it left: where
/// that was, what is its own, and how large the layers are in which it shares.
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
        "LEFT AT",
        "LSN",
        "OWN",
        "LOG",
        "LAYERS",
        "SHARES IN",
    ];
    table(&head, &rows)
}

fn below(
    branches: &[BranchReport],
    parent: &BranchReport,
    indent: &str,
    rows: &mut Vec<Vec<String>>,
) {
    let mut children: Vec<&BranchReport> = branches
        .iter()
        .filter(|branch| branch.parent.as_deref() == Some(parent.name.as_str()))
        .collect();
    children.sort_by_key(|branch| (branch.branch_point_lsn, branch.name.clone()));
    for (at, child) in children.iter().enumerate() {
        let last = at + 1 == children.len();
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
    let (left, shares) = match branch.parent {
        Some(_) => (
            branch.branch_point_lsn.to_string(),
            bytes(branch.ancestors_layer_bytes),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    vec![
        name,
        left,
        branch.last_lsn.to_string(),
        bytes(branch.own_bytes),
        bytes(branch.wal_bytes),
        bytes(branch.layer_bytes),
        shares,
    ]
}
