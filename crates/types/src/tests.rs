//! Valid and invalid branch names.

use crate::BranchName;
use std::collections::BTreeSet;
use std::path::{Component, Path};

const NAMES: [&str; 14] = [
    "main",
    "0",
    "v1.2.3",
    "a..b",
    "a.",
    "feature/login",
    "feature-login",
    "feature.login",
    "feature_login",
    "feature/login/2",
    "dependabot/npm_and_yarn/left-pad-1.3.0",
    "Feature/Login",
    "a/b.c",
    "a.b/c",
];

#[test]
fn names_that_people_and_ci_use() {
    for name in NAMES {
        assert_eq!(
            BranchName::parse(name).map(|n| n.to_string()),
            Ok(name.to_owned())
        );
    }
    let long = "a".repeat(BranchName::MAX_BYTES);
    assert!(BranchName::parse(&long).is_ok());
    assert!(BranchName::parse(&(long + "a")).is_err());
}

#[test]
fn hostile_names() {
    for name in [
        "",
        "/",
        "/main",
        "main/",
        "a//b",
        ".",
        "..",
        "../main",
        "a/..",
        "a/../b",
        "a/.",
        "a/./b",
        "a/.git",
        ".hidden",
        "-x",
        "a/-x",
        "_x",
        "a+b",
        "a%2Fb",
        "main@1",
        "a@1/b",
        "id:00",
        "a b",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\"b",
        "a'b",
        "a{b}",
        "$(id)",
        "naïve",
        "a\u{2215}b",
    ] {
        let error = BranchName::parse(name).err();
        let said = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains(&format!("{name:?}")), "{name:?} was taken");
    }
}

#[test]
fn a_name_is_one_component_of_a_path_and_comes_back() {
    let mut files = BTreeSet::new();
    for name in NAMES {
        let name = BranchName::parse(name).ok();
        let file = name.as_ref().map(BranchName::file_name).unwrap_or_default();
        let parts: Vec<Component<'_>> = Path::new(&file).components().collect();
        assert!(matches!(parts.as_slice(), [Component::Normal(_)]), "{file}");
        assert_eq!(BranchName::from_file_name(&file).ok(), name);
        assert!(files.insert(file), "{name:?} shares a file name");
    }
    for file in ["a/b", "", "..", "+", "a+", "+a", "a++b", "a+..", "a+.b"] {
        assert!(
            BranchName::from_file_name(file).is_err(),
            "{file} was taken"
        );
    }
}
