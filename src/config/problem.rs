//! What is wrong with a configuration, one readable line each, and where each of its values came from.

use std::fmt;
use std::sync::Arc;

/// Where a value, or the lack of one, comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The command line's option of this name.
    Argument(&'static str),
    /// The environment variable of this name.
    Variable(&'static str),
    /// The file as a whole.
    File(Arc<str>),
    /// A place in the file; both count from 1, the column in characters.
    Line { file: Arc<str>, line: usize, column: usize },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Argument(name) => f.write_str(name),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File(file) => f.write_str(file),
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// One thing that is wrong: where, at which key, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub origin: Origin,
    /// The key with the tables around it, such as `service.orders.retry.attempts`; may be empty.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        // One problem is one line, whatever a value contained.
        f.write_str(&self.message.replace(['\n', '\r'], " "))
    }
}

/// Everything that is wrong with one configuration, in the order of its lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

/// One effective value, as TOML writes it (a secret as `***`), and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub path: String,
    pub value: String,
    pub origin: Origin,
}

/// What other programs of this kind call it, and what it may be called here.
const ELSEWHERE: [(&str, &str); 26] = [
    ("addr", "endpoints"),
    ("address", "endpoints"),
    ("address", "listen"),
    ("algorithm", "balance"),
    ("backend", "from"),
    ("bind", "listen"),
    ("check", "health"),
    ("datacenter", "dc"),
    ("endpoints", "address"),
    ("expected_statuses", "expect"),
    ("healthcheck", "health"),
    ("healthy_threshold", "rise"),
    ("host", "listen"),
    ("hosts", "endpoints"),
    ("lb", "balance"),
    ("least_conn", "least_request"),
    ("least_connections", "least_request"),
    ("path", "http"),
    ("policy", "balance"),
    ("port", "listen"),
    ("source", "from"),
    ("threads", "workers"),
    ("to", "from"),
    ("unhealthy_threshold", "fall"),
    ("upstream", "from"),
    ("url", "from"),
];

/// ` did you mean "x"?` for the nearest of `known`, if one is near enough to be meant; else empty.
pub(super) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    const NEAR: f64 = 0.8;
    let known: Vec<_> = known.into_iter().collect();
    let foreign = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == word && known.contains(ours));
    if let Some((_, ours)) = foreign {
        return format!(" did you mean {ours:?}?");
    }
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(word, known), known))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(String::new, |(_, known)| format!(" did you mean {known:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let origin = Origin::Line { file: "a.toml".into(), line: 3, column: 7 };
        let problem = Problem { origin, path: "log.level".to_owned(), message: "\"x\ny\" is bad".to_owned() };
        assert_eq!(problem.to_string(), "a.toml:3:7: log.level: \"x y\" is bad");
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["attempts", "statuses", "backoff_base"];
        assert_eq!(suggestion("atempts", known), " did you mean \"attempts\"?");
        assert_eq!(suggestion("backof_base", known), " did you mean \"backoff_base\"?");
        assert_eq!(suggestion("color", known), "");
    }

    #[test]
    fn the_words_of_other_programs_are_known_where_ours_is_accepted() {
        assert_eq!(suggestion("url", ["from", "port"]), " did you mean \"from\"?");
        assert_eq!(suggestion("address", ["endpoints", "user"]), " did you mean \"endpoints\"?");
        assert_eq!(suggestion("address", ["listen", "from"]), " did you mean \"listen\"?");
        assert_eq!(suggestion("url", ["attempts", "statuses"]), "");
    }
}
