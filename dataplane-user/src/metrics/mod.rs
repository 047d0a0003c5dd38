//! `/metrics`: figures of the daemon's report and of the maps.
//!
//! | module | is |
//! |---|---|
//! | [`metric`] | the table of metrics |
//! | [`samples`] | figures, and how they are written |
//! | [`report`], [`maps`] | where figures come from |
//! | [`leases`] | which reasons tell of leases |
//!
//! Nothing is counted here: the programs count, and the report is that of `tunless status`.

pub mod leases;
pub mod maps;
pub mod metric;
pub mod report;
pub mod samples;

pub use self::{
    metric::Metric,
    samples::{Format, Label, Samples},
};
