//! A time on the command line.

use std::time::SystemTime;

/// A time such as `2026-01-15T10:30:00Z`, or how long ago, such as `2h`.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        format!("expected a time such as 2026-01-15T10:30:00Z, or how long ago, such as 2h or 30days, found {text:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let hour = Duration::from_secs(3600);
        let then = moment("1h").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!(ago >= hour && ago < hour * 2);
        assert_eq!(
            moment("1970-01-01T00:00:01Z").unwrap(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1)
        );
        assert!(moment("yesterday").unwrap_err().contains("expected a time such as"));
    }
}
