//! Echo servers, load generators, yardsticks and the comparison that runs them.
