//! The modules of one crate, with their syntax trees.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta};

/// A module's path from the crate's root; empty for the root itself.
pub(crate) type ModulePath = Vec<String>;

pub(crate) struct Crate {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
}

pub(crate) struct Module {
    pub(crate) file: PathBuf,
    /// The file's text; empty for an inline module.
    pub(crate) text: String,
    pub(crate) items: Vec<Item>,
    /// Compiled for tests only, because of itself or of a module above it.
    pub(crate) test_only: bool,
}

impl Crate {
    /// Reads the crate whose root is this file, and the modules that it declares.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self { modules: BTreeMap::new() };
        let dir = root.parent().unwrap_or(Path::new("."));
        tree.read_file(Vec::new(), root, dir, false)?;
        Ok(tree)
    }

    fn read_file(
        &mut self,
        path: ModulePath,
        file: &Path,
        children: &Path,
        test_only: bool,
    ) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let syntax = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        self.add(path, file, text, syntax.items, children, test_only)
    }

    fn add(
        &mut self,
        path: ModulePath,
        file: &Path,
        text: String,
        items: Vec<Item>,
        children: &Path,
        test_only: bool,
    ) -> Result<()> {
        for item in &items {
            let Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let dir = children.join(&name);
            let test_only = test_only || is_test_only(&module.attrs);
            let mut path = path.clone();
            path.push(name.clone());
            match &module.content {
                Some((_, items)) => {
                    self.add(path, file, String::new(), items.clone(), &dir, test_only)?;
                }
                None => {
                    let source = match path_attribute(&module.attrs) {
                        Some(elsewhere) => file.with_file_name(elsewhere),
                        None => children.join(format!("{name}.rs")),
                    };
                    self.read_file(path, &source, &source.with_extension(""), test_only)?;
                }
            }
        }
        self.modules.insert(path, Module { file: file.to_owned(), text, items, test_only });
        Ok(())
    }
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(meta) = &attribute.meta else { return None };
        let Expr::Lit(ExprLit { lit: Lit::Str(path), .. }) = &meta.value else { return None };
        meta.path.is_ident("path").then(|| path.value())
    })
}

fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}
