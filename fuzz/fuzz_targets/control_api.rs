//! What a client of the control socket sends, what a switch answers, and files of configuration and rules.
#![no_main]

use std::io::Read;
use std::path::Path;

use enlight::config::{Config, parse_rules};
use enlight::control::{Body, read_head};
use enlight::daemon::api::{self, CaptureRequest};
use libfuzzer_sys::fuzz_target;
use vswitch::control::{PortConfig, VlanMode, is_port_name};
use vswitch::pcapng::Block;

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    match kind % 9 {
        0 => api::port(input).map_or_else(|error| one_line(&error.message), |port| sound(&port)),
        1 => match api::filter(input) {
            Ok(filter) => assert!(filter.deadline.is_none_or(|deadline| !deadline.is_zero())),
            Err(error) => one_line(&error.message),
        },
        2 => text(input, |query| {
            if let Ok(request) = CaptureRequest::parse(query) {
                assert_eq!(CaptureRequest::parse(&request.query()), Ok(request));
            }
        }),
        3 => text(input, |file| {
            match Config::parse(file, Path::new("switch.toml")) {
                Ok(config) => config.ports.iter().for_each(sound),
                Err(error) => one_line(&error.to_string()),
            }
        }),
        4 => text(input, |file| {
            if let Err(error) = parse_rules(file, Path::new("rules.toml")) {
                one_line(&error.to_string());
            }
        }),
        5 => answer(input),
        6 => text(input, |query| {
            if let Ok(top) = api::top(query) {
                assert!((1..=api::MAX_TOP as usize).contains(&top));
            }
        }),
        7 => match api::attribution(input) {
            Ok(mode) => assert_eq!(mode.to_string().parse(), Ok(mode)),
            Err(error) => one_line(&error.message),
        },
        _ => {
            let mut stream = input;
            while let Ok(Some(block)) = Block::read(&mut stream) {
                let _ = block.as_packet();
            }
        }
    }
});

fn text(input: &[u8], parse: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(input) {
        parse(text);
    }
}

/// An accepted port is one that the switch can have.
fn sound(port: &PortConfig) {
    assert!(is_port_name(&port.name));
    assert!((1..=16).contains(&port.queues) && port.mtu >= 68);
    match &port.vlan {
        VlanMode::Access(vlan) => assert!(*vlan <= 4094),
        VlanMode::Trunk(vlans) => {
            assert!(!vlans.is_empty() && vlans.iter().all(|vlan| (1..=4094).contains(vlan)))
        }
    }
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}

/// Reading an answer ends, and yields no more than came.
fn answer(mut stream: &[u8]) {
    let came = stream.len();
    let Ok(head) = read_head(&mut stream) else { return };
    let mut body = Vec::new();
    let _ = Body::new(stream, head).read_to_end(&mut body);
    assert!(body.len() <= came);
}
