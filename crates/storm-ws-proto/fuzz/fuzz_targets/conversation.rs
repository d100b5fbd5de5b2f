#![no_main]

use storm_ws_proto::Role;
use storm_ws_proto::fuzzing::conversation;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    conversation(Role::Server, data);
    conversation(Role::Client, data);
});
