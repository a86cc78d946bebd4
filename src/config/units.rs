//! Values with units: `"250ms"`, `"64KiB"`, `"20%"`.

use std::time::Duration;

const DURATION: &str = "write for example \"250ms\", \"2s\", \"5m\" or \"1h\"";
const BYTES: &str = "write for example \"512B\", \"64KiB\" or \"16MiB\"";
const SHARE: &str = "write for example \"20%\"";

/// The sizes that a number of bytes may be given in, largest first among those of one kind.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A time span such as `250ms` or `1m 30s`.
///
/// # Errors
/// What is wrong with the text, and an example of what is accepted. So for all of this file.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative: {DURATION}"));
    }
    if is_bare_number(text) {
        return Err(format!("{text} has no unit: {DURATION}"));
    }
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no time span: {DURATION}"))
}

/// A number of bytes such as `64KiB` (1024) or `64kB` (1000).
pub fn bytes(text: &str) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative: {BYTES}"));
    }
    if is_bare_number(text) {
        return Err(format!("{text} has no unit: {BYTES}"));
    }
    let wrong = || format!("{text:?} is no size: {BYTES}");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let (_, size) = SIZES.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*size).ok_or_else(|| format!("{text:?} is too large: {BYTES}"))
}

/// A share from `0%` to `100%`, as 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    if is_bare_number(text) {
        return Err(format!("{text} has no unit: {SHARE}"));
    }
    let wrong = || format!("{text:?} is no share: {SHARE}");
    let number: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim_end().parse().map_err(|_| wrong())?;
    if (0.0..=100.0).contains(&number) {
        Ok(number / 100.0)
    } else {
        Err(format!("{text:?} is out of range: \"0%\" to \"100%\" is accepted"))
    }
}

/// As [`duration`] reads it.
pub fn show_duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// As [`bytes`] reads it, in the largest binary unit that needs no fraction.
pub fn show_bytes(value: u64) -> String {
    let fits = |(name, size): &&(&str, u64)| name.ends_with("iB") && value > 0 && value.is_multiple_of(*size);
    let (name, size) = SIZES.iter().find(fits).copied().unwrap_or(("B", 1));
    format!("{}{name}", value / size)
}

/// As [`share`] reads it.
pub fn show_share(value: f64) -> String {
    format!("{}%", (value * 1e8).round() / 1e6)
}

fn is_bare_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_with_units_are_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("1 MiB"), Ok(1 << 20));
        assert_eq!(bytes("64kB"), Ok(64_000));
        assert_eq!(share("20%"), Ok(0.2));
        assert_eq!(share("12.5 %"), Ok(0.125));
    }

    #[test]
    fn a_wrong_value_is_told_what_is_right() {
        for (text, message) in [
            ("250", "250 has no unit: write for example"),
            ("5 parsecs", "\"5 parsecs\" is no time span: write for example"),
            ("-1s", "\"-1s\" is negative: write for example"),
            ("", "\"\" is no time span"),
        ] {
            assert!(duration(text).unwrap_err().starts_with(message), "{text}: {:?}", duration(text));
        }
        for (text, message) in [
            ("64", "64 has no unit"),
            ("64K", "\"64K\" is no size: write for example \"512B\""),
            ("KiB", "\"KiB\" is no size"),
            ("99999999999GiB", "\"99999999999GiB\" is too large"),
            ("1.5MiB", "\"1.5MiB\" is no size"),
        ] {
            assert!(bytes(text).unwrap_err().starts_with(message), "{text}: {:?}", bytes(text));
        }
        for (text, message) in [
            ("0.2", "0.2 has no unit"),
            ("twenty%", "\"twenty%\" is no share"),
            ("101%", "\"101%\" is out of range"),
            ("-1%", "\"-1%\" is out of range"),
            ("NaN%", "\"NaN%\" is out of range"),
        ] {
            assert!(share(text).unwrap_err().starts_with(message), "{text}: {:?}", share(text));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.eNainf]{0,6} ?[a-zA-Z%µ]{0,4}|\\PC{0,12}") {
            let _ = (duration(&text), bytes(&text), share(&text));
        }

        #[test]
        fn what_is_shown_reads_back(millis in 0..1_000_000_000_u64, size: u64, percent in 0..=10_000_u32) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
            prop_assert_eq!(bytes(&show_bytes(size)), Ok(size));
            let ratio = f64::from(percent) / 10_000.0;
            prop_assert!((share(&show_share(ratio)).unwrap() - ratio).abs() < 1e-9);
        }
    }
}
