//! TCP echo server on port 5000.

fn main() {}
