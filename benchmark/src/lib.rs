//! Echo servers, load generators, yardsticks and the comparison that runs them.
//!
//! ```text
//!  compare ── starts ──> a server (ours, a yardstick, a peer, any command line)
//!     │                     ▲  │ echoes
//!     │              frames │  ▼
//!     └──── starts ──> tcp-echo-client / ws-echo-client ── report ──> table or JSON
//!                         cli -> load -> proc, progress -> report
//! ```
//!
//! The load generator is one thread over epoll and does nothing per message but compare bytes, so that the
//! server is what is measured. README.md of this package has the method and what each number means.

pub mod cli;
pub mod compare;
pub mod load;
pub mod peers;
pub mod proc;
pub mod progress;
pub mod report;
pub mod serve;
