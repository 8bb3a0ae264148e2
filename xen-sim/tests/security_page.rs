//! docs/security.md does not rot: each test that it names is there, and each test that is named by an advisory is in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backquotes.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// The names of the tests in a file.
fn tests(text: &str) -> Vec<&str> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while lines.any(|line| line == "#[test]") {
        // Other attributes may stand between.
        let function = lines.by_ref().find_map(|line| line.strip_prefix("fn ")).expect("a test is a function");
        found.push(function.split('(').next().unwrap_or_default());
    }
    found
}

/// Every Rust file of the repository, from its root.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "forks" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_test_that_the_page_names_is_there() {
    let page = read("docs/security.md");
    let lab: String = {
        let mut files = Vec::new();
        sources(&root().join("xtask/src/test"), &mut files);
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    };
    let mut count = 0;
    for name in quoted(&page) {
        if let Some((file, test)) = name.split_once(".rs::") {
            let file = format!("{file}.rs");
            let text = read(&file);
            assert!(tests(&text).contains(&test), "{file} has no test {test}");
            count += 1;
        } else if let Some(check) = name.strip_prefix("lab: ") {
            assert!(lab.contains(&format!("(\"{check}\", ")), "the lab has no check {check:?}");
            count += 1;
        } else if let Some(target) = name.strip_prefix("fuzz: ") {
            assert!(root().join(format!("fuzz/src/targets/{target}.rs")).is_file(), "there is no fuzz target {target}");
            count += 1;
        }
    }
    assert!(count > 40, "the page names {count} tests");
}

#[test]
fn each_test_of_an_advisory_is_in_the_page() {
    let page = read("docs/security.md");
    let named: BTreeSet<_> = quoted(&page).filter_map(|name| name.split_once(".rs::")).map(|(_, test)| test).collect();
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for test in tests(&text).into_iter().filter(|test| test.starts_with("xsa_") || test.starts_with("cve_")) {
            assert!(named.contains(test), "docs/security.md does not name {test} of {}", file.display());
            count += 1;
        }
    }
    assert!(count > 30, "there are {count} such tests");
}

/// The advisories that a test's name lists, such as `XSA-39`.
fn advisories(test: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut kind = "";
    for word in test.split('_') {
        match word {
            "xsa" => kind = "XSA-",
            "cve" => kind = "CVE-2026-",
            "and" => {}
            year if kind == "CVE-2026-" && year == "2026" => {}
            number if number.parse::<u32>().is_ok() => found.push(format!("{kind}{number}")),
            _ => break,
        }
    }
    found
}

/// The advisories of a table's row: `XSA-361, 362, CVE-2026-1` are three.
fn row(line: &str) -> Vec<String> {
    let mut kind = String::new();
    let cell = line.split('|').nth(1).unwrap_or_default();
    cell.split(',')
        .map(str::trim)
        .map(|name| match name.rsplit_once('-') {
            Some((before, _)) => {
                kind = format!("{before}-");
                name.to_owned()
            }
            None => format!("{kind}{name}"),
        })
        .collect()
}

#[test]
fn each_advisory_that_a_test_is_named_by_has_a_row() {
    let page = read("docs/security.md");
    let rows: BTreeSet<_> = page.lines().filter(|line| line.starts_with('|')).flat_map(row).collect();
    let mut count = 0;
    for (_, test) in quoted(&page).filter_map(|name| name.split_once(".rs::")) {
        for advisory in advisories(test) {
            assert!(rows.contains(&advisory), "no row for {advisory}, which {test} names");
            count += 1;
        }
    }
    assert!(count > 40, "tests name {count} advisories");
    assert_eq!(advisories("xsa_465_and_cve_2026_9_and_10_some_words"), ["XSA-465", "CVE-2026-9", "CVE-2026-10"]);
    assert_eq!(row("| XSA-1, 2, CVE-2026-3, 4 | what |"), ["XSA-1", "XSA-2", "CVE-2026-3", "CVE-2026-4"]);
}
