//! Which of Xen's operations on event channels and grants this crate knows, read from its source: those that hypervisors
//! had most bugs in are not among them.

use std::collections::BTreeSet;
use std::path::Path;

/// The crate's source, each file's text.
fn source() -> Vec<(String, String)> {
    fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, files),
                false => files.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap())),
            }
        }
    }
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files
}

/// Names in the source that begin so.
fn names(prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in source() {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // Constants; comments name operations as the headers do.
            if word.starts_with(prefix) && word.chars().all(|c| !c.is_ascii_lowercase()) {
                found.insert(word.to_owned());
            }
        }
    }
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Version 2 of grant tables and changes of the version (XSA-486, 500, 501, 517), and FIFO event channels, their growth and
/// resets (XSA-505).
#[test]
fn xsa_486_500_501_505_and_517_versions_change_once_and_event_channels_are_of_two_levels() {
    let events = ["ALLOC_UNBOUND", "BIND_INTERDOMAIN", "BIND_VIRQ", "CLOSE", "SEND", "STATUS"];
    assert_eq!(names("EVTCHNOP_"), set(&events.map(|name| format!("EVTCHNOP_{name}")).each_ref().map(String::as_str)));
    let grants = ["COPY", "MAP_GRANT_REF", "QUERY_SIZE", "SET_VERSION", "UNMAP_GRANT_REF"];
    assert_eq!(names("GNTTABOP_"), set(&grants.map(|name| format!("GNTTABOP_{name}")).each_ref().map(String::as_str)));
    let calls: Vec<_> = source()
        .iter()
        .flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains("grant_set_version("))
        .map(|line| line.trim().to_owned())
        .collect();
    let (defined, used): (Vec<_>, Vec<_>) = calls.iter().partition(|line| line.contains("fn grant_set_version("));
    assert_eq!(defined.len(), 1);
    assert_eq!(used, ["match hypercall::grant_set_version(1) {"], "at the table's first growth, and nowhere else");
}
