/* A vchan through Xen's own library. The functions of the store (xenstore.h) and of event channels (xenevtchn.h) come with it. */
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../libvchan.h"
#include "lab.h"

#define MAX_OUT (4u << 20)

static int (*evtchn_notify)(void *, uint32_t);
static void *(*xs_open)(unsigned long);
static void *(*xs_read)(void *, uint32_t, const char *, unsigned int *);
static bool (*xs_rm)(void *, uint32_t, const char *);
static char **(*xs_directory)(void *, uint32_t, const char *, unsigned int *);
static bool (*xs_is_domain_introduced)(void *, unsigned int);

static void *store;

void load_library(const char *name)
{
    load_vchan(name);
    evtchn_notify = symbol("xenevtchn_notify");
    xs_open = symbol("xs_open");
    xs_read = symbol("xs_read");
    xs_rm = symbol("xs_rm");
    xs_directory = symbol("xs_directory");
    xs_is_domain_introduced = symbol("xs_is_domain_introduced");
    store = xs_open(0);
    if (!store)
        fail(1, "cannot reach the store");
}

static void begin(struct channel *channel)
{
    channel->in = channel->in ? channel->in : malloc(IN_ROOM);
    if (!channel->in)
        fail(1, "no memory");
    channel->in_len = channel->out_len = 0;
    channel->is_closed = 0;
    channel->vchan->blocking = 0;
}

int channel_serve(struct channel *channel, int domain, int port, size_t ring)
{
    snprintf(channel->keys, sizeof(channel->keys), "data/vchan/%d/%d", domain, port);
    channel->vchan = server_init(NULL, domain, channel->keys, ring, ring);
    if (!channel->vchan)
        return -1;
    begin(channel);
    return 0;
}

int channel_connect(struct channel *channel, int domain, int port, int seconds)
{
    char path[96], key[128];
    snprintf(path, sizeof(path), "/local/domain/%d/data/vchan/0/%d", domain, port);
    snprintf(key, sizeof(key), "%s/event-channel", path);
    int64_t deadline = now_ms() + seconds * 1000;
    channel->keys[0] = 0;
    channel->vchan = NULL;
    do {
        unsigned int len = 0;
        void *value = xs_read(store, 0, key, &len);
        free(value);
        if (value && len)
            channel->vchan = client_init(NULL, domain, path);
        else
            poll(NULL, 0, 20);
    } while (!channel->vchan && now_ms() < deadline && domain_exists(domain));
    if (!channel->vchan)
        return -1;
    begin(channel);
    /* Once more than the library does, as Qubes OS does. */
    evtchn_notify(channel->vchan->events, channel->vchan->port);
    return 0;
}

/* Takes a server's keys away: it has one client. So is the directory of the client's domain when nothing is left in it. */
static void remove_keys(struct channel *channel)
{
    unsigned int count = 0;
    xs_rm(store, 0, channel->keys);
    *strrchr(channel->keys, '/') = 0;
    char **left = xs_directory(store, 0, channel->keys, &count);
    if (left && !count)
        xs_rm(store, 0, channel->keys);
    free(left);
    channel->keys[0] = 0;
}

int channel_is_connected(struct channel *channel)
{
    if (vchan_is_open(channel->vchan) == 2)
        return 0;
    if (channel->keys[0])
        remove_keys(channel);
    return 1;
}

int channel_fd(struct channel *channel)
{
    return vchan_fd(channel->vchan);
}

void channel_take_event(struct channel *channel)
{
    if (vchan_wait(channel->vchan))
        channel->is_closed = 1;
}

void channel_move(struct channel *channel)
{
    while (channel->out_len) {
        int len = vchan_write(channel->vchan, channel->out, channel->out_len);
        if (len <= 0)
            break;
        channel->out_len -= len;
        memmove(channel->out, channel->out + len, channel->out_len);
    }
    while (channel->in_len < IN_ROOM) {
        int len = vchan_read(channel->vchan, channel->in + channel->in_len, IN_ROOM - channel->in_len);
        if (len < 0)
            channel->is_closed = 1;
        if (len <= 0)
            break;
        channel->in_len += len;
    }
}

void channel_put(struct channel *channel, const void *data, size_t len)
{
    if (channel->out_len + len > channel->out_room) {
        channel->out_room = 2 * (channel->out_len + len);
        if (channel->out_room > MAX_OUT)
            fail(1, "the guest has not read %zu bytes", channel->out_len);
        channel->out = realloc(channel->out, channel->out_room);
        if (!channel->out)
            fail(1, "no memory");
    }
    memcpy(channel->out + channel->out_len, data, len);
    channel->out_len += len;
}

void channel_consume(struct channel *channel, size_t len)
{
    channel->in_len -= len;
    memmove(channel->in, channel->in + len, channel->in_len);
}

void channel_drop(struct channel *channel)
{
    if (!channel->vchan)
        return;
    vchan_close(channel->vchan);
    channel->vchan = NULL;
    if (channel->keys[0])
        remove_keys(channel);
}

int domain_exists(int domain)
{
    return xs_is_domain_introduced(store, domain);
}
