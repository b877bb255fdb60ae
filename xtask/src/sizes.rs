//! Limits on the length of files and functions.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::run::{output, root};

/// Lines that a file may have, its tests left out.
const FILE_LINES: usize = 600;
/// Lines that a function may have, from its signature to its closing brace.
const FUNCTION_LINES: usize = 60;

/// Checks every Rust file that is in the repository or about to be.
pub(crate) fn check() -> Result<()> {
    let list = output(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]))?;
    let mut excesses = Vec::new();
    let mut files = 0;
    for name in list.lines() {
        let path = root().join(name);
        // A file that was deleted but is not committed as such yet.
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        excesses.extend(excesses_of(name, &text)?);
        files += 1;
    }
    if !excesses.is_empty() {
        bail!("too long:\n  {}", excesses.join("\n  "));
    }
    eprintln!("sizes: {files} files, none over {FILE_LINES} lines, no function over {FUNCTION_LINES}");
    Ok(())
}

/// What is too long in a file, each as a line for people.
fn excesses_of(name: &str, text: &str) -> Result<Vec<String>> {
    let file = syn::parse_file(text).with_context(|| format!("parsing {name}"))?;
    let lines = text.lines().count() - file.items.iter().map(test_lines).sum::<usize>();
    let mut excesses = Vec::new();
    if lines > FILE_LINES {
        excesses.push(format!("{name}: {lines} lines; the limit is {FILE_LINES}"));
    }
    let mut functions = Functions {
        name,
        excesses: &mut excesses,
    };
    functions.visit_file(&file);
    Ok(excesses)
}

/// Lines of an item if it is a test module with its text in this file.
fn test_lines(item: &syn::Item) -> usize {
    match item {
        syn::Item::Mod(module) if module.content.is_some() && module.attrs.iter().any(is_cfg_test) => {
            lines_of(module.span())
        }
        _ => 0,
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Ident>()
            .is_ok_and(|condition| condition == "test")
}

fn lines_of(span: proc_macro2::Span) -> usize {
    span.end().line + 1 - span.start().line
}

struct Functions<'a> {
    name: &'a str,
    excesses: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn judge(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.span().start().line;
        let lines = block.span().end().line + 1 - start;
        if lines > FUNCTION_LINES {
            let Self { name, excesses } = self;
            let function = &signature.ident;
            excesses.push(format!(
                "{name}:{start}: fn {function} has {lines} lines; the limit is {FUNCTION_LINES}"
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.judge(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    let _ = \"}\";\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_at_the_limit_passes_and_one_past_it_does_not() {
        assert_eq!(excesses_of("a.rs", &function(60)).unwrap(), Vec::<String>::new());
        let excesses = excesses_of("a.rs", &format!("\n{}", function(61))).unwrap();
        assert_eq!(excesses, ["a.rs:2: fn f has 61 lines; the limit is 60"]);
    }

    #[test]
    fn methods_and_default_methods_count() {
        let body = function(61);
        for text in [
            format!("struct S; impl S {{ {body} }}"),
            format!("trait T {{ {body} }}"),
        ] {
            assert_eq!(excesses_of("a.rs", &text).unwrap().len(), 1, "{text}");
        }
    }

    #[test]
    fn a_files_tests_do_not_count() {
        let code = "const A: u8 = 0;\n".repeat(600);
        let tests = "#[cfg(test)]\nmod tests {\n    const B: u8 = 0;\n}\n";
        assert_eq!(
            excesses_of("a.rs", &format!("{code}{tests}")).unwrap(),
            Vec::<String>::new()
        );
        let excesses = excesses_of("a.rs", &format!("{code}const B: u8 = 0;\n{tests}")).unwrap();
        assert_eq!(excesses, ["a.rs: 601 lines; the limit is 600"]);
    }

    #[test]
    fn what_is_no_rust_is_an_error() {
        assert!(excesses_of("a.rs", "fn {").is_err());
    }
}
