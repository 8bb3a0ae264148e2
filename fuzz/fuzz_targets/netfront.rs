#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xen_sim::fuzzing::netfront(data));
