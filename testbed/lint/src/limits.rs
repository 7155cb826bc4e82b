//! Bounds on what one has to read at a time.

use std::path::Path;

use proc_macro2::Span;
use syn::{
    Block, Fields, ImplItemFn, ItemFn, ItemStruct, Signature, TraitItemFn,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::modules::Crate;

/// Lines of a file.
const MAX_FILE: usize = 500;
/// Lines of a function, from its name to its last brace.
const MAX_FUNCTION: usize = 80;
/// Fields of a struct that does not give its reason for more.
const MAX_FIELDS: usize = 12;
/// Begins the comment above a struct that gives it.
const REASON: &str = "// fields: ";

pub(crate) fn check(tree: &Crate) -> Vec<String> {
    let mut findings = Vec::new();
    for module in tree.modules.values().filter(|module| !module.text.is_empty()) {
        let lines: Vec<&str> = module.text.lines().collect();
        if lines.len() > MAX_FILE {
            findings.push(format!(
                "{}: {} lines of at most {MAX_FILE}",
                module.file.display(),
                lines.len()
            ));
        }
        let mut bounds = Bounds { file: &module.file, lines: &lines, findings: &mut findings };
        for item in &module.items {
            bounds.visit_item(item);
        }
    }
    findings
}

struct Bounds<'a> {
    file: &'a Path,
    lines: &'a [&'a str],
    findings: &'a mut Vec<String>,
}

impl Bounds<'_> {
    fn function(&mut self, signature: &Signature, block: &Block) {
        let (start, end) = (line(signature.span()), block.span().end().line);
        let length = end + 1 - start;
        if length > MAX_FUNCTION {
            self.findings.push(format!(
                "{}:{start}: fn {} has {length} lines of at most {MAX_FUNCTION}",
                self.file.display(),
                signature.ident
            ));
        }
    }
}

impl<'a> Visit<'a> for Bounds<'_> {
    fn visit_item_fn(&mut self, function: &'a ItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a ImplItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'a TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_struct(&mut self, item: &'a ItemStruct) {
        let count = match &item.fields {
            Fields::Named(fields) => fields.named.len(),
            Fields::Unnamed(fields) => fields.unnamed.len(),
            Fields::Unit => 0,
        };
        if count > MAX_FIELDS && !self.gives_a_reason(item) {
            self.findings.push(format!(
                "{}:{}: struct {} has {count} fields of at most {MAX_FIELDS}; more need a line `{REASON}why` above it",
                self.file.display(),
                line(item.ident.span()),
                item.ident
            ));
        }
    }
}

impl Bounds<'_> {
    /// Whether a comment with the reason stands above the struct, before or among its attributes.
    fn gives_a_reason(&self, item: &ItemStruct) -> bool {
        let above = self.lines[..line(item.ident.span()) - 1].iter().rev();
        let mut head = above.take_while(|line| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('}')
        });
        head.any(|line| line.trim_start().starts_with(REASON))
    }
}

fn line(span: Span) -> usize {
    span.start().line
}
