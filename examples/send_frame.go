// Sends one frame as a device does: one UDP datagram. Needs nothing but Go's standard library:
//
//	go run examples/send_frame.go 127.0.0.1 5000 sensor-42 1 '{"temperature":21.5}'
package main

import (
	"encoding/binary"
	"log"
	"net"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) != 6 || len(os.Args[3]) < 1 || len(os.Args[3]) > 16 {
		log.Fatal("usage: send_frame HOST PORT DEVICE_ID SEQUENCE PAYLOAD; a device id has 1 to 16 bytes")
	}
	sequence, err := strconv.ParseUint(os.Args[4], 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	frame := make([]byte, 22, 22+len(os.Args[5]))
	binary.BigEndian.PutUint16(frame, 0xAA55)
	copy(frame[2:18], os.Args[3]) // the rest stays 0: the id is padded with NUL
	binary.BigEndian.PutUint32(frame[18:], uint32(sequence))
	frame = append(frame, os.Args[5]...)

	conn, err := net.Dial("udp", net.JoinHostPort(os.Args[1], os.Args[2]))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil {
		log.Fatal(err)
	}
}
