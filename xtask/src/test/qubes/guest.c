/* A qube's side, in dom0 itself, with which the daemons are checked: it does what it is told, and also what it must not. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"

#define HEADER 72

enum { WRITE = 1, MULTIREAD, LIST, RM, OK = 7, NOENT, ERROR, MULTIREAD_RESP = 11 };

/* A message of QubesDB's, which may be wrong in all its parts. */
static void put_entry(struct channel *channel, uint8_t type, const char *path, const void *data, uint32_t len)
{
    unsigned char header[HEADER] = { type };
    strncpy((char *)header + 1, path, MAX_PATH - 1);
    memcpy(header + 68, &len, 4);
    channel_put(channel, header, HEADER);
    channel_put(channel, data, len < MAX_DATA ? len : 0);
}

static void wait_event(struct channel *channel)
{
    struct pollfd event = { .fd = channel_fd(channel), .events = POLLIN };
    if (poll(&event, 1, 1000) == 1)
        channel_take_event(channel);
}

/* Waits for a whole message; null at the channel's end. */
static const unsigned char *next_entry(struct channel *channel, uint32_t *len)
{
    for (;;) {
        channel_move(channel);
        if (channel->in_len >= HEADER) {
            memcpy(len, channel->in + 68, 4);
            if (channel->in_len >= HEADER + *len)
                return channel->in;
        }
        if (channel->is_closed)
            return NULL;
        wait_event(channel);
    }
}

static void offend(struct channel *channel, const char *how)
{
    char data[MAX_DATA] = "a\0b";
    if (!strcmp(how, "twice"))
        put_entry(channel, MULTIREAD, "", "", 0);
    else if (!strcmp(how, "list"))
        put_entry(channel, LIST, "/", "", 0);
    else if (!strcmp(how, "absent"))
        put_entry(channel, RM, "/absent", "", 0);
    else if (!strcmp(how, "directory"))
        put_entry(channel, WRITE, "/directory/", "x", 1);
    else if (!strcmp(how, "path"))
        put_entry(channel, WRITE, "/a b", "x", 1);
    else if (!strcmp(how, "long"))
        put_entry(channel, WRITE, "/long", data, MAX_DATA);
    else if (!strcmp(how, "error"))
        put_entry(channel, ERROR, "/name", "x", 1);
    else if (!strcmp(how, "nul"))
        put_entry(channel, WRITE, "/nul", data, 3);
    else if (!strcmp(how, "answer"))
        put_entry(channel, OK, "/name", "", 0);
}

/* Copies the database, does one thing that it must not, and follows: what is written below /ask it writes below /told. */
static int guest_db(const char *how)
{
    struct channel channel = { 0 };
    const unsigned char *message;
    uint32_t len;
    if (channel_connect(&channel, 0, 111, 10))
        fail(1, "no daemon");
    put_entry(&channel, MULTIREAD, "", "", 0);
    while ((message = next_entry(&channel, &len))) {
        const char *path = (const char *)message + 1, *data = (const char *)message + HEADER;
        char told[MAX_PATH];
        say("type %u %s = %.*s", message[0], path, (int)len, data);
        if (message[0] == MULTIREAD_RESP && !*path)
            offend(&channel, how);
        if (message[0] == WRITE || message[0] == RM)
            put_entry(&channel, OK, path, "", 0);
        if (message[0] == WRITE && !strncmp(path, "/ask", 4)) {
            snprintf(told, sizeof(told), "/told%s", path + 4);
            put_entry(&channel, WRITE, told, data, len);
        }
        channel_consume(&channel, HEADER + len);
    }
    channel_drop(&channel);
    say("the channel has ended");
    return 0;
}

static const struct message *next_message(struct channel *channel)
{
    const struct message *message;
    for (;;) {
        channel_move(channel);
        message = first_message(channel, IN_ROOM / 2);
        if (message || channel->is_closed)
            return message;
        wait_event(channel);
    }
}

static void put_status(struct channel *channel, uint32_t status)
{
    put_message(channel, DATA_STDOUT, NULL, 0);
    put_message(channel, DATA_EXIT_CODE, &status, 4);
    while (channel->out_len && !channel->is_closed) {
        channel_move(channel);
        wait_event(channel);
    }
}

/* Calls a service of dom0's, with `data` for it, and sends what comes to `to`. */
static uint32_t guest_call(struct channel *agent, const char *name, uint32_t version, struct channel *to)
{
    struct channel data = { 0 };
    char body[512] = "";
    size_t before = version == 4 ? 64 : 0;
    if (version == 2) {
        strncpy(body, name, 63);
        strcpy(body + 64, "dom0");
        strcpy(body + 96, "one");
        put_message(agent, TRIGGER_SERVICE, body, 128);
    } else {
        strcpy(body + before, "dom0");
        strcpy(body + before + 64, "one");
        strncpy(body + before + 96, name, 200);
        put_message(agent, version == 3 ? TRIGGER_SERVICE3 : TRIGGER_SERVICE4, body, before + 96 + strlen(name) + 1);
    }
    const struct message *message = next_message(agent);
    uint32_t numbers[2], status = PROBLEM;
    if (!message || message->type != SERVICE_CONNECT || strcmp((char *)(message + 1) + 8, "one")) {
        status = message && message->type == SERVICE_REFUSED && !strcmp((char *)(message + 1), "one") ? 126 : PROBLEM;
        if (message)
            channel_consume(agent, sizeof(*message) + message->len);
        return status;
    }
    memcpy(numbers, message + 1, 8);
    channel_consume(agent, sizeof(*message) + message->len);
    if (channel_serve(&data, numbers[0], numbers[1], 65536))
        fail(1, "cannot listen on port %u", numbers[1]);
    while (!channel_is_connected(&data))
        wait_event(&data);
    put_message(&data, HELLO, &version, 4);
    wait_hello(&data, 10);
    put_message(&data, DATA_STDIN, "question\n", 9);
    put_message(&data, DATA_STDIN, NULL, 0);
    for (int is_over = 0; !is_over && (message = next_message(&data));) {
        if (message->type == DATA_STDOUT && message->len)
            put_message(to, DATA_STDOUT, message + 1, message->len);
        is_over = message->type == DATA_EXIT_CODE;
        if (is_over)
            memcpy(&status, message + 1, 4);
        channel_consume(&data, sizeof(*message) + message->len);
    }
    channel_drop(&data);
    put_message(agent, CONNECTION_TERMINATED, numbers, 8);
    return status;
}

/* A command: it prints the command and what it reads. `call NAME` calls a service of dom0's instead. */
static void guest_command(struct channel *agent, const struct message *message, uint32_t version)
{
    struct channel data = { 0 };
    uint32_t numbers[2], status = 3;
    char command[512];
    memcpy(numbers, message + 1, 8);
    snprintf(command, sizeof(command), "%s", (const char *)(message + 1) + 8);
    channel_consume(agent, sizeof(*message) + message->len);
    if (channel_connect(&data, numbers[0], numbers[1], 10))
        fail(1, "no data channel on port %u", numbers[1]);
    wait_hello(&data, 10);
    put_message(&data, HELLO, &version, 4);
    put_message(&data, DATA_STDERR, "warning\n", 8);
    if (!strncmp(command, "user:call ", 10)) {
        status = guest_call(agent, command + 10, version, &data);
    } else {
        put_message(&data, DATA_STDOUT, command, strlen(command));
        while ((message = next_message(&data)) && message->len) {
            put_message(&data, DATA_STDOUT, message + 1, message->len);
            channel_consume(&data, sizeof(*message) + message->len);
        }
    }
    put_status(&data, status);
    while (!data.is_closed) {
        channel_move(&data);
        data.in_len = 0;
        if (!data.is_closed)
            wait_event(&data);
    }
    channel_drop(&data);
    put_message(agent, CONNECTION_TERMINATED, numbers, 8);
    channel_move(agent);
}

static void __attribute__((noreturn)) guest_agent(uint32_t version)
{
    const struct message *message;
    for (;;) {
        struct channel agent = { 0 };
        if (channel_serve(&agent, 0, 512, 4096))
            fail(1, "cannot listen on port 512");
        while (!channel_is_connected(&agent))
            wait_event(&agent);
        put_message(&agent, HELLO, &version, 4);
        uint32_t daemons = wait_hello(&agent, 10), both = daemons < version ? daemons : version;
        say("the daemon has version %u", daemons);
        while ((message = next_message(&agent))) {
            say("type 0x%x %s", message->type, (const char *)(message + 1) + 8);
            if (message->type == EXEC_CMDLINE || message->type == JUST_EXEC)
                guest_command(&agent, message, both);
            else
                channel_consume(&agent, sizeof(*message) + message->len);
        }
        channel_drop(&agent);
        free(agent.in);
        free(agent.out);
    }
}

int run_guest(char **arguments)
{
    if (!strcmp(arguments[0], "agent"))
        guest_agent(number(arguments[1]));
    return guest_db(arguments[0]);
}
