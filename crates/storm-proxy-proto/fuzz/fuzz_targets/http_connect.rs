#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storm_proxy_proto::fuzzing::http_connect(data));
