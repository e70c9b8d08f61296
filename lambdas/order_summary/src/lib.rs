//! order_summary.
