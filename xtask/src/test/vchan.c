/* dom0's end of a vchan, through Xen's own library:
 *   lab-vchan LIBRARY client DOMAIN PATH BYTES
 *   lab-vchan LIBRARY server DOMAIN PATH BYTES LEFT RIGHT
 * sends BYTES bytes, and checks that the same come back. With no bytes it sends five, and then does nothing until it is
 * killed. LEFT and RIGHT are the rings' sizes. */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "libvchan.h"

static void fail(const char *what, long at)
{
    fprintf(stderr, "vchan: %s at byte %ld\n", what, at);
    exit(1);
}

static unsigned char pattern(long at)
{
    return (unsigned char)(at * 2654435761u >> 13);
}

/* Waits for an event, ten seconds at most. */
static void sleep_on(struct vchan *vchan, long at)
{
    struct pollfd event = { .fd = vchan_fd(vchan), .events = POLLIN };
    if (poll(&event, 1, 10000) != 1)
        fail("no event for ten seconds", at);
    if (vchan_wait(vchan))
        fail("cannot wait", at);
}

static void exchange(struct vchan *vchan, long total)
{
    static unsigned char out[5000], in[7000];
    long sent = 0, received = 0;
    while (received < total) {
        int moved = 0;
        if (sent < total) {
            long len = total - sent < (long)sizeof(out) ? total - sent : (long)sizeof(out);
            for (long i = 0; i < len; i++)
                out[i] = pattern(sent + i);
            int written = vchan_write(vchan, out, len);
            if (written < 0)
                fail("cannot write", sent);
            sent += written;
            moved |= written;
        }
        int len = vchan_read(vchan, in, sizeof(in));
        if (len < 0)
            fail("cannot read", received);
        for (int i = 0; i < len; i++)
            if (in[i] != pattern(received + i))
                fail("another byte", received + i);
        received += len;
        moved |= len;
        if (!moved)
            sleep_on(vchan, received);
    }
    printf("vchan: %ld bytes have come back\n", received);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: lab-vchan LIBRARY client|server DOMAIN PATH BYTES [LEFT RIGHT]\n");
        return 1;
    }
    load_vchan(argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int domain = atoi(argv[3]);
    long bytes = atol(argv[5]);
    struct vchan *vchan = NULL;
    if (!strcmp(argv[2], "server") && argc == 8) {
        vchan = server_init(NULL, domain, argv[4], atol(argv[6]), atol(argv[7]));
    } else {
        /* It does not wait for a server. */
        for (int tries = 0; !vchan && tries < 400; tries++) {
            vchan = client_init(NULL, domain, argv[4]);
            if (!vchan)
                usleep(50000);
        }
    }
    if (!vchan)
        fail("no channel", 0);
    vchan->blocking = 0;
    printf("vchan: up\n");
    while (vchan_is_open(vchan) == 2)
        sleep_on(vchan, 0);
    if (bytes) {
        exchange(vchan, bytes);
        vchan_close(vchan);
        return 0;
    }
    if (vchan_write(vchan, "hello", 5) != 5)
        fail("cannot write", 0);
    printf("vchan: holding\n");
    for (;;)
        pause();
}
