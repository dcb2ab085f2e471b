import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Sends one frame as a device does: one UDP datagram. Needs nothing but a JDK:
 * java examples/SendFrame.java 127.0.0.1 5000 sensor-42 1 '{"temperature":21.5}'
 */
public final class SendFrame {
    public static void main(String[] args) throws Exception {
        byte[] id = args.length == 5 ? args[2].getBytes(StandardCharsets.UTF_8) : new byte[0];
        if (id.length < 1 || id.length > 16) {
            System.err.println("usage: SendFrame HOST PORT DEVICE_ID SEQUENCE PAYLOAD; a device id has 1 to 16 bytes");
            System.exit(2);
        }
        byte[] payload = args[4].getBytes(StandardCharsets.UTF_8);
        ByteBuffer frame = ByteBuffer.allocate(22 + payload.length); // big-endian; the id is padded with NUL
        frame.putShort(0, (short) 0xAA55).put(2, id).putInt(18, Integer.parseUnsignedInt(args[3])).put(22, payload);
        try (DatagramSocket socket = new DatagramSocket()) {
            InetAddress host = InetAddress.getByName(args[0]);
            socket.send(new DatagramPacket(frame.array(), frame.capacity(), host, Integer.parseInt(args[1])));
        }
    }
}
