#![no_main]

use storm_ws_proto::Role;
use storm_ws_proto::fuzzing::deflate_frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    deflate_frames(Role::Server, data);
    deflate_frames(Role::Client, data);
});
