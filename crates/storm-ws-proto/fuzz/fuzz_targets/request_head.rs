#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storm_ws_proto::fuzzing::request_head(data));
