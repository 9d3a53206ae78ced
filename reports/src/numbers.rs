//! Numbers as people read them.

/// Three significant digits, thousands apart: `0.0412`, `4.12`, `41.2`, `412`, `41,200` as `41,200`.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "-".into();
    }
    let decimals = match size {
        s if s >= 99.95 || s == 0.0 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.9995 => 2,
        s if s >= 0.09995 => 3,
        s if s >= 0.0001 => 4,
        _ => return format!("{value:.1e}"),
    };
    thousands(&format!("{value:.decimals$}"))
}

/// `1234567` as `1,234,567`; a sign and decimals are left alone.
pub(crate) fn thousands(digits: &str) -> String {
    let (sign, rest) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let (whole, tail) = rest.find('.').map_or((rest, ""), |dot| rest.split_at(dot));
    let mut out = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + tail
}

/// A relative change in percent with its sign: `-20.0 %`.
pub(crate) fn change(relative: f64) -> String {
    let percent = relative * 100.0;
    match percent.abs() {
        p if p >= 999.95 => format!("{}x", number(relative + 1.0)),
        p if p < 0.05 => "0.0 %".into(), // No sign on what rounds to nothing.
        _ => format!("{percent:+.1} %"),
    }
}

/// A share in percent: `12.3 %`.
pub(crate) fn share(value: f64) -> String {
    format!("{:.1} %", value * 100.0)
}

/// Seconds in the unit that reads best: `12.3 ms`, `1.23 s`.
pub(crate) fn seconds(value: f64) -> String {
    match value.abs() {
        s if s >= 600.0 => format!("{} min", number(value / 60.0)),
        s if s >= 0.9995 => format!("{} s", number(value)),
        s if s >= 0.9995e-3 || s == 0.0 => format!("{} ms", number(value * 1e3)),
        _ => format!("{} µs", number(value * 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 0.04123, 0.4123, 4.123, 41.23, 99.97, 412.3, 41234.5, -1234567.0, 1e-7].map(number);
        assert_eq!(
            shown,
            ["0", "0.0412", "0.412", "4.12", "41.2", "100", "412", "41,234", "-1,234,567", "1.0e-7"]
        );
        assert_eq!([number(f64::NAN), change(-0.2), change(12.0)], ["-", "-20.0 %", "13.0x"]);
        assert_eq!(
            [seconds(0.0123), seconds(1.5), seconds(2e-6), seconds(6000.0)],
            ["12.3 ms", "1.50 s", "2.00 µs", "100 min"]
        );
    }
}
