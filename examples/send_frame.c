/* Sends one frame as a device does: one UDP datagram. Needs nothing but a C compiler:
 *   cc -o send_frame examples/send_frame.c && ./send_frame 127.0.0.1 5000 sensor-42 1 '{"temperature":21.5}'
 */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 6 || strlen(argv[3]) < 1 || strlen(argv[3]) > 16 || strlen(argv[5]) > 2050) {
        fprintf(stderr, "usage: send_frame HOST PORT DEVICE_ID SEQUENCE PAYLOAD; a device id has 1 to 16 bytes\n");
        return 2;
    }
    unsigned char frame[2072] = {0xAA, 0x55}; /* magic, big-endian; the rest is 0: the id is padded with NUL */
    unsigned long sequence = strtoul(argv[4], NULL, 10);
    size_t size = strlen(argv[5]);
    memcpy(frame + 2, argv[3], strlen(argv[3]));
    for (int i = 0; i < 4; i++) frame[18 + i] = (unsigned char)(sequence >> (24 - 8 * i));
    memcpy(frame + 22, argv[5], size);

    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *to;
    if (getaddrinfo(argv[1], argv[2], &hints, &to)) return perror("address"), 1;
    int sock = socket(to->ai_family, SOCK_DGRAM, 0);
    if (sock < 0 || sendto(sock, frame, 22 + size, 0, to->ai_addr, to->ai_addrlen) < 0) return perror("send"), 1;
    freeaddrinfo(to);
    return close(sock);
}
