//! The pages do not rot: each function that ARCHITECTURE.md names is there, and so are the pages that others link to.

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

/// A page's links to others are labels, which it defines as files, and `src/guide.rs` as modules.
#[test]
fn each_page_is_in_the_guide_and_its_links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let guide = fs::read_to_string(root.join("src/guide.rs")).unwrap();
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for path in pages.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || guide.contains(&format!("{name:?}")), "src/guide.rs has no {name}");
        let page = fs::read_to_string(path).unwrap();
        for label in page.split("][").skip(1).map(|rest| rest.split(']').next().unwrap()) {
            let file = page.lines().find_map(|line| line.strip_prefix(&format!("[{label}]: ")));
            let file = file.unwrap_or_else(|| panic!("{name} does not define [{label}]"));
            assert!(path.with_file_name(file).is_file(), "{name}: there is no {file}");
            assert!(guide.contains(&format!("[{label}]: crate::guide::")), "src/guide.rs does not define [{label}]");
        }
    }
}

/// The crates that the page says were tried are those of the guest that tries them, and each has a trial there.
#[test]
fn each_crate_of_the_ecosystem_is_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (page, manifest) = (read("docs/ecosystem.md"), read("apps/ecosystem/Cargo.toml"));
    let tried = page.split("## What was tried").nth(1).unwrap().split("## ").next().unwrap();
    let rows: Vec<_> = tried.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let listed = manifest.split("docs/ecosystem.md").nth(1).unwrap();
    let dependencies: Vec<_> = listed.lines().skip(1).filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    assert_eq!(rows, dependencies);
    let sources = ["bytes_and_text", "collections", "crypto", "formats", "machine"];
    let code = sources.map(|name| read(&format!("apps/ecosystem/src/{name}.rs"))).concat();
    for name in &rows {
        assert!(code.contains(&format!("(\"{name}\",")), "{name} is not tried");
    }
    assert!(rows.len() >= 60, "{} crates", rows.len());
}
