#![no_main]

use storm_ws_proto::Role;
use storm_ws_proto::fuzzing::frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    frames(Role::Server, data);
    frames(Role::Client, data);
});
