//! What a round came to.

use crate::output;

/// What a round came to.
pub struct Outcome {
    pub(super) failures: usize,
    pub(super) routes: usize,
    pub(super) endpoints: usize,
}

impl Outcome {
    /// Whether everything asked for is in place.
    pub fn is_complete(&self) -> bool {
        self.failures == 0
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let Self { failures, routes, endpoints } = self;
        let tables = format!(
            "{}, {}",
            output::count(*routes, "route"),
            output::count(*endpoints, "endpoint")
        );
        match failures {
            0 => tables,
            _ => format!("{tables}; {}, see the log", output::count(*failures, "failure")),
        }
    }
}
