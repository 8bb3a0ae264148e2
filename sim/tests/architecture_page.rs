//! ARCHITECTURE.md does not rot: each function that it names is in the file that it names.

use std::fs;
use std::path::Path;

#[test]
fn each_function_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let page = read("ARCHITECTURE.md");
    let mut count = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let Some((file, function)) = name.split_once("::").filter(|(file, _)| file.ends_with(".rs")) else { continue };
        let text = read(file);
        let ends = ["(", "<"].map(|end| format!("fn {function}{end}"));
        assert!(ends.iter().any(|start| text.contains(start)), "{file} has no function {function}");
        count += 1;
    }
    assert!(count > 60, "the page names {count} functions");
}
