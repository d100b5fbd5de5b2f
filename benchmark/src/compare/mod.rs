//! The comparison of servers.
