//! Which module names something of which other module of its crate.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Item, ItemUse, UseTree,
    visit::{self, Visit},
};

use crate::modules::{Crate, ModulePath};

/// The modules that `module` imports from, by `use` or by a path in code, each where the imported item is
/// defined: re-exports are followed.
pub(crate) fn of(tree: &Crate, module: &ModulePath) -> Vec<ModulePath> {
    let Some(content) = tree.modules.get(module) else { return Vec::new() };
    let mut paths = Paths::default();
    for item in &content.items {
        // Modules inside have imports of their own.
        if !matches!(item, Item::Mod(_)) {
            paths.visit_item(item);
        }
    }
    let homes = paths.found.iter().filter_map(|path| home(tree, module, path, 0));
    homes.filter(|home| home != module).collect()
}

/// The paths that are named in a piece of code, as they are written.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_use(&mut self, item: &'a ItemUse) {
        expand(&item.tree, &mut Vec::new(), &mut |path, _| self.found.push(path.to_vec()));
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.found
                .push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'a syn::Macro) {
        self.visit_path(&invocation.path);
        self.visit_tokens(invocation.tokens.clone());
    }
}

impl Paths {
    /// Finds `a::b::c` in the arguments of a macro.
    fn visit_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    self.visit_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end_path(&mut path),
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.found.push(path);
        }
    }
}

/// Calls `found` with each path of a `use` tree and the name that it gets; `*` for all names.
fn expand(tree: &UseTree, before: &mut Vec<String>, found: &mut dyn FnMut(&[String], &str)) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            expand(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            match before.last().filter(|_| name == "self") {
                Some(last) => found(before, last),
                None => found(&[before.as_slice(), std::slice::from_ref(&name)].concat(), &name),
            }
        }
        UseTree::Rename(rename) => {
            let path = [before.as_slice(), &[rename.ident.to_string()]].concat();
            found(&path, &rename.rename.to_string());
        }
        UseTree::Glob(_) => found(before, "*"),
        UseTree::Group(group) => {
            for tree in &group.items {
                expand(tree, before, found);
            }
        }
    }
}

/// Re-exports of re-exports are followed so far; beyond it, they are taken for a circle.
const MAX_REEXPORTS: usize = 16;

/// The module where `path`, as written in `module`, leads to; `None` outside this crate.
fn home(tree: &Crate, module: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
    let (mut at, rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (module.clone(), &path[1..]),
        "super" => {
            let up = path.iter().take_while(|segment| *segment == "super").count();
            (module.get(..module.len().checked_sub(up)?)?.to_vec(), &path[up..])
        }
        first => {
            let child = [module.as_slice(), &[first.to_owned()]].concat();
            tree.modules.contains_key(&child).then_some(())?;
            (module.clone(), path)
        }
    };
    for (index, segment) in rest.iter().enumerate() {
        let child = [at.as_slice(), std::slice::from_ref(segment)].concat();
        if tree.modules.contains_key(&child) {
            at = child;
            continue;
        }
        return match reexported(tree, &at, segment, depth) {
            Some(home) if tree.modules.contains_key(&home) && index + 1 < rest.len() => {
                let inside = [&["self".to_owned()], &rest[index + 1..]].concat();
                self::home(tree, &home, &inside, depth + 1).or(Some(home))
            }
            Some(home) => Some(home),
            None => Some(at),
        };
    }
    Some(at)
}

/// Where `name` comes from, if the module has it by `pub use`.
fn reexported(tree: &Crate, module: &ModulePath, name: &str, depth: usize) -> Option<ModulePath> {
    if depth >= MAX_REEXPORTS {
        return None;
    }
    let mut found = None;
    for item in &tree.modules.get(module)?.items {
        let Item::Use(item) = item else { continue };
        let mut path = None;
        expand(&item.tree, &mut Vec::new(), &mut |from, called| {
            if called == name && from.first().is_some_and(|first| first != name || from.len() > 1) {
                path = Some(from.to_vec());
            }
        });
        if let Some(path) = path {
            found = home(tree, module, &path, depth + 1);
        }
    }
    found
}
