//! Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.
//!
//! Source: Patel et al., "Splitwise", ISCA 2024; the 2024 traces of the same repository add an
//! offset from UTC to the time.

use std::io::BufRead;

use specrouter_routing::units::Time;
use specrouter_routing::workload::FileRow;

use super::error::FileError;
use super::table::{Lines, Schema, Table, parse_nanos};

pub(super) const SCHEMA: Schema =
    Schema { required: &["TIMESTAMP", "ContextTokens", "GeneratedTokens"], optional: &[] };

/// The rows in the file's order, with times since 0000-03-01.
///
/// # Errors
/// [`FileError`], for the first row that cannot be read.
pub(super) fn read<R: BufRead>(lines: Lines<R>, limit: usize) -> Result<Vec<FileRow>, FileError> {
    let mut table = Table::new(lines, SCHEMA, limit)?;
    let mut rows = Vec::new();
    // A date in nanoseconds since year 0 does not fit a `Time`; since the first day seen, it does.
    let mut base = None;
    while let Some(row) = table.next()? {
        let moment = row.text(0).and_then(parse_timestamp);
        let (seconds, nanos) =
            moment.ok_or_else(|| row.value(0, "a time like 2023-11-16 18:17:03.9799600"))?;
        // A century before the first row leaves room for rows out of order.
        let base = *base.get_or_insert(seconds - 100 * 366 * 86_400);
        let arrival = u64::try_from(seconds - base)
            .ok()
            .and_then(|s| s.checked_mul(1_000_000_000))
            .and_then(|n| n.checked_add(nanos))
            .ok_or_else(|| row.value(0, "a time within 100 years before or 480 after the first row"))?;
        rows.push(FileRow {
            arrival: Time::from_nanos(arrival),
            prompt_tokens: row.tokens(1)?,
            output_tokens: row.tokens(2)?,
            class: None,
            terms: None,
        });
    }
    Ok(rows)
}

/// Seconds and nanoseconds of `YYYY-MM-DD hh:mm:ss[.fraction][Z|±hh:mm]`, since 0000-03-01.
fn parse_timestamp(text: &str) -> Option<(i64, u64)> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits
            .iter()
            .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let mark = |at: usize, allowed: &[u8]| bytes.get(at).filter(|byte| allowed.contains(byte)).map(|_| ());
    mark(4, b"-")?;
    mark(7, b"-")?;
    mark(10, b" T")?;
    mark(13, b":")?;
    mark(16, b":")?;
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut seconds = days(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second;
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return None;
        }
        nanos = parse_nanos(&fraction[..end]);
        rest = &fraction[end..];
    }
    match rest.as_bytes() {
        [] | [b'Z'] => {}
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at, at + 2)?, number(at + 3, at + 5)?);
            if hours > 14 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            seconds -= if *sign == b'+' { offset } else { -offset };
        }
        _ => return None,
    }
    Some((seconds, nanos))
}

/// Days of a date of the civil calendar since 0000-03-01; `None` for a date that is none.
///
/// Years begin in March here, so that the leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    Some(365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_on_across_months_leap_years_and_centuries() {
        assert_eq!(days(0, 3, 1), Some(0));
        assert_eq!(days(1970, 1, 1), Some(719_468));
        assert_eq!(days(2023, 11, 16).unwrap() - days(1970, 1, 1).unwrap(), 19_677);
        // Every day of 500 years follows the one before it.
        let mut last = days(1799, 12, 31).unwrap();
        let mut count = 0;
        for (year, month, day) in
            (1800..2300).flat_map(|y| (1..=12).flat_map(move |m| (1..=31).map(move |d| (y, m, d))))
        {
            if let Some(now) = days(year, month, day) {
                assert_eq!(now, last + 1, "{year}-{month}-{day}");
                last = now;
                count += 1;
            }
        }
        assert_eq!(count, 500 * 365 + 121); // 125 fourth years, less 1800, 1900, 2100, 2200.
        for (year, month, day) in
            [(2023, 2, 29), (1900, 2, 29), (2023, 13, 1), (2023, 0, 1), (2023, 4, 31), (2023, 1, 0)]
        {
            assert_eq!(days(year, month, day), None);
        }
    }

    #[test]
    fn timestamps_keep_their_hundred_nanoseconds() {
        let (a, b) = (
            parse_timestamp("2023-11-16 23:59:59.9799601").unwrap(),
            parse_timestamp("2023-11-17 00:00:00.0000002").unwrap(),
        );
        assert_eq!((b.0 - a.0, a.1, b.1), (1, 979_960_100, 200));
        let same = [
            "2024-05-10T00:00:00Z",
            "2024-05-10 00:00:00.0+00:00",
            "2024-05-10 02:30:00+02:30",
            "2024-05-09 23:00:00-01:00",
        ];
        let seconds: Vec<_> = same.iter().map(|text| parse_timestamp(text).unwrap()).collect();
        assert!(seconds.iter().all(|s| *s == seconds[0]));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for bad in [
            "",
            "2023-11-16",
            "2023-11-16 18:17",
            "2023-11-16 18:17:0",
            "2023-11-16 24:00:00",
            "2023-11-16 18:60:00",
            "2023-02-30 18:17:03",
            "2023/11/16 18:17:03",
            "2023-11-16 18:17:03.",
            "2023-11-16 18:17:03.12x",
            "2023-11-16 18:17:03+0",
            "+023-11-16 18:17:03",
            "2023-11-16 18:17:03é",
            "１023-11-16 18:17:03",
            "-2023-11-16 18:17:03",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}
