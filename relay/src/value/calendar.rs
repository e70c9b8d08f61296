//! Postgres's dates and times, counted from 2000-01-01, as the text that it writes under
//! `datestyle = ISO` and `intervalstyle = iso_8601`.

use std::fmt::Write as _;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// Days since 2000-01-01 as `2026-01-15`; the ends of the range are the infinities.
pub(super) fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        days => {
            let (date, era) = civil(days.into());
            format!("{date}{era}")
        }
    }
}

/// Microseconds since 2000-01-01 as `2026-01-15 10:30:00.5`, with `zone` behind the time.
pub(super) fn timestamp(micros: i64, zone: &str) -> Option<String> {
    match micros {
        i64::MAX => return Some("infinity".to_owned()),
        i64::MIN => return Some("-infinity".to_owned()),
        _ => {}
    }
    let (date, era) = civil(micros.div_euclid(MICROS_A_DAY));
    Some(format!("{date} {}{zone}{era}", time(micros.rem_euclid(MICROS_A_DAY))?))
}

/// Microseconds since midnight as `10:30:00.5`; 24:00:00 is one.
pub(super) fn time(micros: i64) -> Option<String> {
    if !(0..=MICROS_A_DAY).contains(&micros) {
        return None;
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    push_fraction(&mut text, fraction);
    Some(text)
}

/// The same with a zone, in seconds west of Greenwich, as `+02` or `-05:30`.
pub(super) fn time_with_zone(micros: i64, west: i32) -> Option<String> {
    let mut text = time(micros)?;
    let seconds = west.unsigned_abs();
    text.push(if west <= 0 { '+' } else { '-' });
    let _ = write!(text, "{:02}", seconds / 3600);
    if !seconds.is_multiple_of(3600) {
        let _ = write!(text, ":{:02}", seconds / 60 % 60);
    }
    if !seconds.is_multiple_of(60) {
        let _ = write!(text, ":{:02}", seconds % 60);
    }
    Some(text)
}

/// Microseconds, days and months as `P1Y2M3DT4H5M6.5S`; each part has its own sign.
pub(super) fn interval(micros: i64, days: i32, months: i32) -> String {
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return "infinity".to_owned(),
        (i64::MIN, i32::MIN, i32::MIN) => return "-infinity".to_owned(),
        (0, 0, 0) => return "PT0S".to_owned(),
        _ => {}
    }
    let mut text = String::from("P");
    for (amount, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if amount != 0 {
            let _ = write!(text, "{amount}{unit}");
        }
    }
    if micros != 0 {
        text.push('T');
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    for (amount, unit) in [(seconds / 3600, 'H'), (seconds / 60 % 60, 'M')] {
        if amount != 0 {
            let _ = write!(text, "{amount}{unit}");
        }
    }
    if seconds % 60 != 0 || fraction != 0 {
        // The sign of half a second stands before a nought.
        text.push_str(if micros < 0 { "-" } else { "" });
        let _ = write!(text, "{}", (seconds % 60).abs());
        push_fraction(&mut text, fraction.abs());
        text.push('S');
    }
    text
}

/// Six digits without the noughts at their end.
fn push_fraction(text: &mut String, micros: i64) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
}

/// A day since 2000-01-01 in the Gregorian calendar, and ` BC` where it is before Christ.
///
/// Algorithm: Howard Hinnant, `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil(days: i64) -> (String, &'static str) {
    // From 0000-03-01, the first day of a year that ends with its leap day.
    let days = days + 730_425;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year > 0 {
        (format!("{year:04}-{month:02}-{day:02}"), "")
    } else {
        (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_read_as_postgres_writes_them() {
        assert_eq!(date(0), "2000-01-01");
        assert_eq!(date(-1), "1999-12-31");
        assert_eq!(date(59), "2000-02-29");
        assert_eq!(date(-730_119), "0001-01-01");
        assert_eq!(date(-730_120), "0001-12-31 BC");
        assert_eq!(timestamp(-1, "+00").unwrap(), "1999-12-31 23:59:59.999999+00");
        assert_eq!(time(MICROS_A_DAY).unwrap(), "24:00:00");
        assert_eq!(time(-1), None);
        assert_eq!(time_with_zone(0, -19_800).unwrap(), "00:00:00+05:30");
        assert_eq!(interval(-500_000, 0, -13), "P-1Y-1MT-0.5S");
        assert_eq!(interval(0, 1, 0), "P1D");
        assert_eq!(interval(3_600_000_000, 0, 0), "PT1H");
    }
}
