//! Environment variables, and `${VAR}` in the text of a configuration file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Where variables are looked up: the process's own, or a fixed map.
pub enum Environment {
    /// Of this process. A value that is no UTF-8 counts as not set.
    Process,
    Fixed(HashMap<String, String>),
}

impl Environment {
    pub fn get(&self, name: &str) -> Option<String> {
        match self {
            Self::Process => std::env::var(name).ok(),
            Self::Fixed(map) => map.get(name).cloned(),
        }
    }

    /// As [`Self::get`], but an empty value counts as not set, as it does for Consul's own tools.
    pub fn get_filled(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty())
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("Process"),
            Self::Fixed(map) => f.debug_set().entries(map.keys()).finish(),
        }
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` (for a variable that is not set or empty, as in a shell), and `$$` by
/// `$`. Any other `$` stands for itself. Borrowed when there was nothing to replace.
///
/// # Errors
/// All of them at once, one sentence each; values of variables are not shown.
pub fn expand<'t>(text: &'t str, env: &Environment) -> Result<Cow<'t, str>, Vec<String>> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let (mut out, mut errors, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = after.strip_prefix('{') {
            let Some((inside, after)) = inside.split_once('}') else {
                errors.push(
                    "\"${\" without \"}\": write ${NAME} or ${NAME:-default}, and $$ for a plain $"
                        .to_owned(),
                );
                rest = "";
                break;
            };
            match variable(inside, env) {
                Ok(value) => out.push_str(&value),
                Err(error) => errors.push(error),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    if errors.is_empty() { Ok(Cow::Owned(out)) } else { Err(errors) }
}

fn variable(inside: &str, env: &Environment) -> Result<String, String> {
    let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, text)| (name, Some(text)));
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(letter) || !name.chars().all(|c| letter(c) || c.is_ascii_digit()) {
        return Err(format!("${{{name}}} is no variable name: A-Z a-z 0-9 and _ are accepted"));
    }
    match (env.get(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "environment variable {name} is not set: set it, or give a default: ${{{name}:-default}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env() -> Environment {
        let pairs = [("HOST", "db"), ("EMPTY", ""), ("TRICK", "${HOST}")];
        Environment::Fixed(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expected) in [
            ("plain", "plain"),
            ("http://${HOST}:1", "http://db:1"),
            ("${NONE:-a b}${HOST:-x}", "a bdb"),
            ("${EMPTY:-x}|${EMPTY}|", "x||"),
            ("${TRICK}", "${HOST}"),
            ("$$ $${HOST} $5 $", "$ ${HOST} $5 $"),
        ] {
            assert_eq!(expand(text, &env()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn each_unset_variable_is_named() {
        let errors = expand("${ONE}${TWO}${a-b}${", &env()).unwrap_err();
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors[0].starts_with("environment variable ONE is not set"));
        assert!(errors[2].starts_with("${a-b} is no variable name"));
        assert!(errors[3].starts_with("\"${\" without \"}\""));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([$}{:-]|HOST|\\PC){0,12}") {
            let _ = expand(&text, &env());
        }
    }
}
