//! Sends one frame as a device does: one UDP datagram. Needs nothing but Rust's standard library:
//!   rustc -o send_frame examples/send_frame.rs && ./send_frame 127.0.0.1 5000 sensor-42 1 '{"temperature":21.5}'
use std::net::{ToSocketAddrs, UdpSocket};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.len() != 6 || args[3].is_empty() || args[3].len() > 16 {
        eprintln!("usage: send_frame HOST PORT DEVICE_ID SEQUENCE PAYLOAD; a device id has 1 to 16 bytes");
        std::process::exit(2);
    }
    let sequence: u32 = args[4].parse().expect("a sequence number");
    let mut frame = vec![0u8; 22]; // the id is padded with NUL
    frame[..2].copy_from_slice(&0xAA55u16.to_be_bytes());
    frame[2..2 + args[3].len()].copy_from_slice(args[3].as_bytes());
    frame[18..22].copy_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(args[5].as_bytes());

    let to = format!("{}:{}", args[1], args[2]).to_socket_addrs().expect("an address").next().expect("an address");
    let here = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(here).and_then(|socket| socket.send_to(&frame, to)).expect("to send");
}
