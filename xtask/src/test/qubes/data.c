/* The channel of one call: qrexec's client in dom0, and a program of dom0's that a guest has called. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lab.h"

#define RING 65536
#define CONNECT_SECONDS 10

void put_message(struct channel *channel, uint32_t type, const void *data, size_t len)
{
    struct message message = { type, len };
    channel_put(channel, &message, sizeof(message));
    channel_put(channel, data, len);
}

const struct message *first_message(struct channel *channel, size_t max)
{
    const struct message *message = (const struct message *)channel->in;
    if (channel->in_len < sizeof(*message))
        return NULL;
    if (message->len > max)
        fail(PROBLEM, "a message of type 0x%x and %u bytes: at most %zu can be", message->type, message->len, max);
    return channel->in_len - sizeof(*message) >= message->len ? message : NULL;
}

/* Waits for an event, for something to read from `input`, or for room to write to `output`; says whether one of the latter
 * two is ready. */
static void sleep_on(struct channel *channel, int input, int output, int *is_ready, int ms)
{
    struct pollfd ready[] = {
        { .fd = channel_fd(channel), .events = POLLIN },
        { .fd = input, .events = POLLIN },
        { .fd = output, .events = POLLOUT },
    };
    *is_ready = 0;
    if (poll(ready, 3, ms) <= 0)
        return;
    if (ready[0].revents)
        channel_take_event(channel);
    *is_ready = ready[1].revents != 0;
}

uint32_t wait_hello(struct channel *channel, int seconds)
{
    int64_t deadline = now_ms() + seconds * 1000;
    const struct message *message;
    uint32_t version;
    int unused;
    for (;;) {
        channel_move(channel);
        message = first_message(channel, IN_ROOM / 2);
        if (message || channel->is_closed || now_ms() > deadline)
            break;
        sleep_on(channel, -1, -1, &unused, 200);
    }
    if (!message)
        fail(PROBLEM, "no HELLO %s", channel->is_closed ? "before the channel was closed" : "within the time limit");
    if (message->type != HELLO || message->len != sizeof(version))
        fail(PROBLEM, "type 0x%x and %u bytes, where HELLO was expected", message->type, message->len);
    memcpy(&version, message + 1, sizeof(version));
    channel_consume(channel, sizeof(*message) + sizeof(version));
    return version;
}

/* What is read goes out as messages of a type, of nothing at the end. Returns whether there is more. */
static int forward(struct channel *channel, int from, uint32_t type, size_t max)
{
    static unsigned char bytes[65536];
    ssize_t len = read(from, bytes, max);
    if (len < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    put_message(channel, type, bytes, len > 0 ? len : 0);
    return len > 0;
}

static size_t chunk(uint32_t own, uint32_t peers)
{
    uint32_t version = own < peers ? own : peers;
    if (version < MIN_VERSION)
        fail(PROBLEM, "the guest's version %u is too old", peers);
    return version == 2 ? 4096 : 65536;
}

/* What a command of the qube's prints goes to this program's streams, up to its exit code. The original agent ends STDOUT
 * before that, except where it only starts the command. */
static uint32_t call(struct channel *channel, size_t max, int is_just)
{
    int input = 0, output_ended = is_just;
    for (;;) {
        const struct message *message;
        int input_ready;
        channel_move(channel);
        while ((message = first_message(channel, max))) {
            const void *body = message + 1;
            uint32_t status;
            switch (message->type) {
            case DATA_STDOUT:
                if (output_ended && (message->len || !is_just))
                    fail(PROBLEM, "STDOUT %s", is_just ? "of what was only started" : "after its end");
                write_all(1, body, message->len);
                output_ended = !message->len;
                break;
            case DATA_STDERR:
                write_all(2, body, message->len);
                break;
            case DATA_EXIT_CODE:
                if (message->len != sizeof(status))
                    fail(PROBLEM, "EXIT_CODE of %u bytes", message->len);
                if (!output_ended)
                    fail(PROBLEM, "EXIT_CODE before the end of STDOUT: the original waits for it");
                memcpy(&status, body, sizeof(status));
                if (input >= 0)
                    put_message(channel, DATA_STDIN, NULL, 0);
                channel_move(channel);
                return status;
            default:
                fail(PROBLEM, "a message of type 0x%x", message->type);
            }
            channel_consume(channel, sizeof(*message) + message->len);
            channel_move(channel);
        }
        if (channel->is_closed)
            fail(255, "vchan connection closed early");
        sleep_on(channel, channel->out_len ? -1 : input, -1, &input_ready, 1000);
        if (input_ready && !forward(channel, input, DATA_STDIN, max))
            input = -1;
    }
}

int run_exec(char **arguments)
{
    struct channel channel = { 0 };
    char text[65536], status = 0, reply[64] = "";
    int domain, port, own, unused;
    snprintf(text, sizeof(text), "%s:%s", arguments[2], arguments[3]);
    int daemon = control_request(arguments[1], (char *[]){ arguments[0], text, NULL });
    size_t len = 0;
    if (read(daemon, &status, 1) != 1 || status != '0')
        fail(PROBLEM, "the daemon has no port");
    while (len < sizeof(reply) - 1 && !strchr(reply, '\n') && read(daemon, reply + len, 1) == 1)
        len++;
    if (sscanf(reply, "%d %d %d", &domain, &port, &own) != 3)
        fail(PROBLEM, "the daemon answered %s", reply);
    if (channel_serve(&channel, domain, port, RING))
        fail(PROBLEM, "cannot listen for domain %d on port %d", domain, port);
    int64_t deadline = now_ms() + CONNECT_SECONDS * 1000;
    while (!channel_is_connected(&channel)) {
        if (now_ms() > deadline) {
            channel_drop(&channel);
            fail(PROBLEM, "qrexec connection timeout");
        }
        sleep_on(&channel, -1, -1, &unused, 200);
    }
    put_message(&channel, HELLO, &own, 4);
    size_t max = chunk(own, wait_hello(&channel, CONNECT_SECONDS));
    uint32_t code = call(&channel, max, !strcmp(arguments[0], "just-exec"));
    channel_drop(&channel);
    /* The agent tells the daemon, which then closes this. */
    struct pollfd ended = { .fd = daemon, .events = POLLIN };
    if (poll(&ended, 1, 10000) != 1)
        fail(PROBLEM, "ended with %u, but no CONNECTION_TERMINATED within 10 seconds", code);
    return code > 255 ? 255 : code;
}

struct program {
    pid_t pid;
    int input, output;
    /* How much of the first message it has. */
    size_t taken;
};

static struct program start(const char *command)
{
    int to[2], from[2];
    if (pipe(to) || pipe(from))
        fail(PROBLEM, "no pipes");
    struct program program = { .pid = fork(), .input = to[1], .output = from[0] };
    if (program.pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        dup2(to[0], 0);
        dup2(from[1], 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    fcntl(program.input, F_SETFL, O_NONBLOCK);
    return program;
}

/* Writes what has come for a program; returns whether it has all of it. It takes nothing while nobody takes what it
 * prints, so that this must not wait for it. */
static int hand_over(struct channel *channel, struct program *program, size_t max)
{
    const struct message *message;
    while ((message = first_message(channel, max))) {
        if (message->type != DATA_STDIN)
            fail(PROBLEM, "type 0x%x of a guest that calls", message->type);
        if (program->input >= 0 && message->len) {
            const char *rest = (const char *)(message + 1) + program->taken;
            ssize_t len = write(program->input, rest, message->len - program->taken);
            if (len < 0 && errno == EAGAIN)
                return 0;
            program->taken = len < 0 ? message->len : program->taken + len;
            if (program->taken < message->len)
                return 0;
        }
        if (program->input >= 0 && !message->len) {
            close(program->input);
            program->input = -1;
        }
        program->taken = 0;
        channel_consume(channel, sizeof(*message) + message->len);
        channel_move(channel);
    }
    return 1;
}

/* Feeds a program of dom0's, and sends what it prints. */
static void feed(struct channel *channel, struct program *program, size_t max)
{
    while (program->output >= 0 || channel->out_len) {
        int output_ready;
        channel_move(channel);
        int has_all = hand_over(channel, program, max);
        if (channel->is_closed)
            fail(PROBLEM, "vchan connection closed early");
        sleep_on(channel, channel->out_len ? -1 : program->output, has_all ? -1 : program->input, &output_ready, 1000);
        if (output_ready && !forward(channel, program->output, DATA_STDOUT, max)) {
            close(program->output);
            program->output = -1;
        }
    }
    if (program->input >= 0)
        close(program->input);
}

int run_serve(char **arguments)
{
    struct channel channel = { 0 };
    int port = number(arguments[1]), own = number(arguments[2]), status = 0, unused;
    if (channel_connect(&channel, number(arguments[0]), port, 5))
        fail(PROBLEM, "qrexec connection timeout on port %d", port);
    uint32_t peers = wait_hello(&channel, 5);
    put_message(&channel, HELLO, &own, 4);
    put_message(&channel, DATA_STDERR, NULL, 0);
    struct program program = start(arguments[3]);
    feed(&channel, &program, chunk(own, peers));
    waitpid(program.pid, &status, 0);
    uint32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    say("%s ended with %u", arguments[3], code);
    put_message(&channel, DATA_EXIT_CODE, &code, 4);
    /* The guest closes it once it has read that. */
    for (int64_t deadline = now_ms() + 5000; channel.out_len && !channel.is_closed && now_ms() < deadline;) {
        channel_move(&channel);
        sleep_on(&channel, -1, -1, &unused, 100);
    }
    channel_drop(&channel);
    return 0;
}
