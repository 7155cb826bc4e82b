//! Checks of the source tree that rustc and clippy do not have: no circle of imports among the modules of
//! a crate, and bounds on the length of files and functions and on the fields of structs.
//!
//! `cargo run -p cframe-lint` checks the workspace that it is run in, prints a line for each finding, and
//! exits with 1 if there is one.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod circles;
mod imports;
mod limits;
mod modules;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use modules::Crate;

fn main() -> ExitCode {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    match check(&root) {
        Ok(checked) if checked.findings.is_empty() => {
            println!("{} crate roots, {} modules: nothing found", checked.crates, checked.modules);
            ExitCode::SUCCESS
        }
        Ok(checked) => {
            for finding in &checked.findings {
                println!("{finding}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cframe-lint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct Checked {
    crates: usize,
    modules: usize,
    findings: Vec<String>,
}

/// Checks every package below `root`.
fn check(root: &Path) -> Result<Checked> {
    let mut checked = Checked::default();
    let mut packages = Vec::new();
    find_packages(root, &mut packages)?;
    for package in packages {
        for source in crate_roots(&package)? {
            let tree = Crate::read(&source)?;
            checked.crates += 1;
            checked.modules += tree.modules.len();
            checked.findings.extend(circles::check(&tree));
            checked.findings.extend(limits::check(&tree));
        }
    }
    // A file may be part of several crates.
    checked.findings.sort();
    checked.findings.dedup();
    anyhow::ensure!(checked.crates > 0, "no Rust package below {}", root.display());
    Ok(checked)
}

fn find_packages(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if dir.join("Cargo.toml").exists() {
        found.push(dir.to_owned());
    }
    for path in entries(dir)? {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !hidden && !path.ends_with("target") && !path.ends_with("src") {
            find_packages(&path, found)?;
        }
    }
    Ok(())
}

/// The files where cargo's automatic discovery finds a crate, and the fuzz targets.
fn crate_roots(package: &Path) -> Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for name in ["src/lib.rs", "src/main.rs"] {
        roots.push(package.join(name));
    }
    for dir in ["src/bin", "tests", "benches", "fuzz_targets"] {
        let dir = package.join(dir);
        if !dir.exists() {
            continue;
        }
        for path in entries(&dir)? {
            match path.is_dir() {
                true => roots.push(path.join("main.rs")),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    roots.push(path)
                }
                false => {}
            }
        }
    }
    roots.retain(|path| path.exists());
    Ok(roots)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths = read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        check(dir.path()).unwrap().findings
    }

    #[test]
    fn modules_that_import_each_other_are_a_circle() {
        let findings = package(&[
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::b::B; pub struct A(B);"),
            ("src/b.rs", "pub struct B; fn b() { crate::c::c() }"),
            ("src/c.rs", "pub fn c() { let _ = format!(\"{}\", super::a::f()); }"),
        ]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("a -> b -> c -> a"), "{findings:?}");
    }

    #[test]
    fn a_circle_through_subtrees_and_a_reexport_is_found() {
        let findings = package(&[
            ("src/lib.rs", "mod a; mod b; pub use a::inner::Deep;"),
            ("src/a.rs", "pub mod inner;"),
            ("src/a/inner.rs", "use crate::b::B; pub struct Deep(B);"),
            ("src/b.rs", "mod user; pub struct B;"),
            ("src/b/user.rs", "use crate::Deep; struct User(Deep);"),
        ]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("a -> b -> a"), "{findings:?}");
    }

    #[test]
    fn a_parent_and_its_children_are_no_circle_and_neither_is_a_test_module() {
        let findings = package(&[
            ("src/lib.rs", "mod a; mod b; pub struct Root;"),
            ("src/a.rs", "mod inner; pub struct A; use inner::Inner; use crate::b::B;"),
            ("src/a/inner.rs", "use super::A; use crate::Root; pub struct Inner;"),
            ("src/b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
        ]);
        assert_eq!(findings, Vec::<String>::new());
    }

    #[test]
    fn long_files_and_functions_and_large_structs_are_found() {
        let long_function = format!("fn f() {{\n{}}}\n", "    ();\n".repeat(79));
        let fields: String = (0..13).map(|n| format!("f{n}: u8,")).collect();
        let findings = package(&[
            ("src/lib.rs", &format!("mod long; {long_function} struct Large {{ {fields} }}")),
            ("src/long.rs", &"\n".repeat(501)),
        ]);
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn a_large_struct_may_give_its_reason() {
        let fields: String = (0..13).map(|n| format!("f{n}: u8,")).collect();
        let text = format!(
            "// fields: one for each column\n#[derive(Debug)]\nstruct Large {{ {fields} }}"
        );
        assert_eq!(package(&[("src/lib.rs", &text)]), Vec::<String>::new());
    }
}
