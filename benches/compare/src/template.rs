//! Configuration files with holes: `{{name}}` is filled in, and the lines from `#{ name` to `#}` are repeated.

use crate::Outcome;
use std::collections::BTreeMap;
use std::str::Lines;

/// What fills the holes: values, and lists of such for the lines that are repeated.
#[derive(Clone, Default)]
pub struct Values {
    values: BTreeMap<&'static str, String>,
    lists: BTreeMap<&'static str, Vec<Values>>,
}

impl Values {
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.insert(name, value.to_string());
        self
    }

    pub fn with_list(mut self, name: &'static str, list: Vec<Values>) -> Self {
        self.lists.insert(name, list);
        self
    }
}

/// Fills a template; a hole or a list that has no value is an error.
pub fn fill(template: &str, values: &Values) -> Outcome<String> {
    let mut filled = String::new();
    block(&mut template.lines(), &[values], &mut filled)?;
    Ok(filled)
}

/// Up to the end of this block. Inner values hide outer ones.
fn block(lines: &mut Lines<'_>, scopes: &[&Values], out: &mut String) -> Outcome<()> {
    while let Some(line) = lines.next() {
        let Some(directive) = line.trim_start().strip_prefix('#') else {
            substitute(line, scopes, out)?;
            continue;
        };
        if directive.trim() == "}" {
            return Ok(());
        }
        let Some(name) = directive.strip_prefix("{ ").map(str::trim) else {
            substitute(line, scopes, out)?;
            continue;
        };
        let list = scopes.iter().rev().find_map(|scope| scope.lists.get(name));
        let list = list.ok_or_else(|| format!("the template repeats {name}, of which there is none"))?;
        let after = skip(lines.clone());
        for inner in list {
            let mut scopes = scopes.to_vec();
            scopes.push(inner);
            block(&mut lines.clone(), &scopes, out)?;
        }
        *lines = after;
    }
    Ok(())
}

/// What follows a block.
fn skip<'a>(mut lines: Lines<'a>) -> Lines<'a> {
    let mut depth = 1;
    for line in lines.by_ref() {
        match line.trim_start() {
            "#}" => depth -= 1,
            line if line.starts_with("#{ ") => depth += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    lines
}

fn substitute(line: &str, scopes: &[&Values], out: &mut String) -> Outcome<()> {
    let mut rest = line;
    while let Some((before, hole)) = rest.split_once("{{") {
        let (name, after) = hole.split_once("}}").ok_or("a hole without an end")?;
        let value = scopes.iter().rev().find_map(|scope| scope.values.get(name));
        out.push_str(before);
        out.push_str(value.ok_or_else(|| format!("nothing fills {name}"))?);
        rest = after;
    }
    out.push_str(rest);
    out.push('\n');
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lists_are_repeated_and_inner_values_hide_outer_ones() {
        let inner = |n: u8| Values::default().with("n", n);
        let outer = Values::default().with("n", "x").with("m", 7);
        let values = outer.with_list(
            "a",
            vec![inner(1).with_list("b", vec![inner(3), inner(4)]), inner(2).with_list("b", vec![])],
        );
        let text =
            fill("# c {{n}}\n#{ a\n<{{n}}{{m}}>\n  #{ b\n.{{n}}\n#}\n#}\nend {{n}}\n", &values).unwrap();
        assert_eq!(text, "# c x\n<17>\n.3\n.4\n<27>\nend x\n");
    }

    #[test]
    fn what_is_missing_is_an_error() {
        assert!(fill("{{a}}", &Values::default()).is_err());
        assert!(fill("#{ a\n#}", &Values::default()).is_err());
    }
}
