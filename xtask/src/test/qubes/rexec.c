/* qrexec's daemon in dom0 for one domain. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lab.h"

#define CONTROL_PORT 512
#define FIRST_PORT 513
#define PORTS 256
#define MAX_SERVICE 65000
#define MAX_MESSAGE (160 + MAX_SERVICE)

static struct channel channel;
static int domain, own_version = 0, seconds = 60;
static uint32_t version;
static const char *self, *library, *directory;

/* Ports of data channels that are in use, with the client that waits for the end, or -1. */
static struct {
    int is_used, client;
} ports[PORTS];

static int take_port(int client)
{
    for (int i = 0; i < PORTS; i++) {
        if (!ports[i].is_used) {
            ports[i].is_used = 1;
            ports[i].client = client;
            return FIRST_PORT + i;
        }
    }
    return 0;
}

static void put_connect(uint32_t type, int port, const void *rest, size_t len)
{
    unsigned char body[8 + 65536];
    uint32_t head[2] = { 0, port };
    memcpy(body, head, 8);
    memcpy(body + 8, rest, len);
    put_message(&channel, type, body, 8 + len);
}

/* The guest did what ends the original. */
static void broken(const char *what)
{
    complain("%s", what);
    say("the daemon ends as the original does");
    channel_move(&channel);
    channel_drop(&channel);
    exit(1);
}

static void greet(void)
{
    version = wait_hello(&channel, 10);
    say("the agent has version %u", version);
    /* The original sends back what it was told. An older one has said its own. */
    uint32_t told = own_version ? (uint32_t)own_version : version;
    uint32_t least = own_version ? own_version : OWN_VERSION;
    put_message(&channel, HELLO, &told, 4);
    channel_move(&channel);
    version = version < least ? version : least;
    if (version < MIN_VERSION)
        broken("an agent of a version that is too old");
    say("connected, with version %u", version);
}

static void connect_agent(int for_seconds)
{
    if (channel_connect(&channel, domain, CONTROL_PORT, for_seconds)) {
        if (!domain_exists(domain)) {
            say("domain %d is gone", domain);
            exit(0);
        }
        fail(3, "Cannot connect to qrexec agent for %d seconds, giving up", for_seconds);
    }
    greet();
}

/* What the table has for a service: the name counts up to its argument. */
static int find_service(const char *service, char *command, size_t room)
{
    char file[256], line[1024];
    size_t len = strcspn(service, "+");
    snprintf(file, sizeof(file), "%s/services", directory);
    FILE *stream = fopen(file, "r");
    int found = 0;
    while (!found && stream && fgets(line, sizeof(line), stream)) {
        line[strcspn(line, "\n")] = 0;
        found = !strncmp(line, service, len) && line[len] == ' ';
        if (found)
            snprintf(command, room, "%s", line + len + 1);
    }
    if (stream)
        fclose(stream);
    return found && strcmp(command, "refuse");
}

static void serve(const char *service, const char *target, const char *ident)
{
    char command[1024], port_text[16], domain_text[16], version_text[16];
    int port = 0;
    say("TRIGGER_SERVICE %s of %s, ident %s", service, target, ident);
    if (find_service(service, command, sizeof(command)))
        port = take_port(-1);
    if (!port) {
        say("refused %s", ident);
        put_message(&channel, SERVICE_REFUSED, ident, 32);
        return;
    }
    put_connect(SERVICE_CONNECT, port, ident, 32);
    channel_move(&channel);
    snprintf(port_text, sizeof(port_text), "%d", port);
    snprintf(domain_text, sizeof(domain_text), "%d", domain);
    snprintf(version_text, sizeof(version_text), "%d", own_version ? own_version : OWN_VERSION);
    if (fork() == 0) {
        signal(SIGCHLD, SIG_DFL);
        setenv("QREXEC_SERVICE_FULL_NAME", service, 1);
        const char *argument = strchr(service, '+');
        setenv("QREXEC_SERVICE_ARGUMENT", argument ? argument + 1 : "", 1);
        execlp(self, self, library, "serve", domain_text, port_text, version_text, command, NULL);
        _exit(PROBLEM);
    }
}

static int ident_is_valid(const char *ident)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. ";
    size_t len = strnlen(ident, 32);
    if (len == 32 || strspn(ident, allowed) != len)
        return 0;
    for (size_t i = len; i < 32; i++)
        if (ident[i])
            return 0;
    return 1;
}

/* A call of the guest's: a target and an ident, and a name behind them or before (version 2). */
static void take_trigger(const char *target, size_t target_room, const char *ident, const char *name, size_t name_room)
{
    char service[MAX_SERVICE + 1], to[65], id[32];
    memcpy(id, ident, 32);
    snprintf(to, sizeof(to), "%.*s", (int)target_room - 1, target);
    snprintf(service, sizeof(service), "%.*s", (int)name_room - 1, name);
    int is_whole = version < 3 || strnlen(name, name_room) == name_room - 1;
    if (!ident_is_valid(id) || !is_whole || !*service || *service == '+') {
        complain("a call with a bad ident or name");
        put_message(&channel, SERVICE_REFUSED, id, 32);
        return;
    }
    serve(service, to, id);
}

static void end_connection(uint32_t at, uint32_t port)
{
    if (port < FIRST_PORT || port >= FIRST_PORT + PORTS)
        broken("CONNECTION_TERMINATED with a port that cannot be");
    say("CONNECTION_TERMINATED domain %u port %u", at, port);
    int index = port - FIRST_PORT;
    if (at || !ports[index].is_used) {
        complain("CONNECTION_TERMINATED of port %u of domain %u, which is not in use", port, at);
        return;
    }
    ports[index].is_used = 0;
    if (ports[index].client >= 0)
        close(ports[index].client);
}

static void handle(const struct message *message)
{
    const char *body = (const char *)(message + 1);
    uint32_t numbers[2], expected = version == 2 ? TRIGGER_SERVICE : version == 3 ? TRIGGER_SERVICE3 : TRIGGER_SERVICE4;
    size_t before = message->type == TRIGGER_SERVICE4 ? 64 + 64 + 32 : 64 + 32;
    switch (message->type) {
    case TRIGGER_SERVICE:
        if (version > 2 || message->len != 128)
            broken("a TRIGGER_SERVICE of this version or length");
        take_trigger(body + 64, 32, body + 96, body, 64);
        break;
    case TRIGGER_SERVICE3:
    case TRIGGER_SERVICE4:
        if (message->type == TRIGGER_SERVICE3 ? version < 3 : version < 4)
            broken("a TRIGGER_SERVICE3 or 4, which this version does not have");
        if (message->len <= before || message->len - before > MAX_SERVICE)
            broken("a TRIGGER_SERVICE3 or 4 of this length");
        if (message->type != expected)
            say("the older TRIGGER_SERVICE3, which this version takes");
        take_trigger(body + before - 96, 64, body + before - 32, body + before, message->len - before);
        break;
    case CONNECTION_TERMINATED:
        if (message->len != 8)
            broken("a CONNECTION_TERMINATED of this length");
        memcpy(numbers, body, 8);
        end_connection(numbers[0], numbers[1]);
        break;
    default:
        complain("type 0x%x", message->type);
        broken("a message that the agent does not send");
    }
}

/* The guest's agent has closed the channel: those that wait are told, and their ports stay taken, as in the original. */
static void restart(void)
{
    say("qrexec-agent has disconnected");
    channel_drop(&channel);
    for (int i = 0; i < PORTS; i++) {
        if (ports[i].is_used && ports[i].client >= 0)
            close(ports[i].client);
        ports[i].client = -1;
    }
    connect_agent(1 << 20);
    say("qrexec-agent has reconnected");
}

static void serve_channel(void)
{
    const struct message *message;
    channel_move(&channel);
    while ((message = first_message(&channel, MAX_MESSAGE))) {
        size_t len = sizeof(*message) + message->len;
        handle(message);
        channel_consume(&channel, len);
        channel_move(&channel);
    }
    if (channel.is_closed)
        restart();
}

static void serve_control(int listener)
{
    static char *words[MAX_WORDS + 1];
    int answer_to = control_accept(listener, words), used = 0;
    if (answer_to < 0)
        return;
    const char *first = words[0] ? words[0] : "";
    int is_just = !strcmp(first, "just-exec");
    if ((is_just || !strcmp(first, "exec")) && words[1] && strlen(words[1]) < 65000) {
        int port = take_port(answer_to);
        if (port) {
            say("%s %s on port %d", first, words[1], port);
            put_connect(is_just ? JUST_EXEC : EXEC_CMDLINE, port, words[1], strlen(words[1]) + 1);
            control_answer(answer_to, 0, "%d %d %d\n", domain, port, own_version ? own_version : OWN_VERSION);
            /* It is closed when the connection has ended. */
            return;
        }
        control_answer(answer_to, 1, "all ports are taken\n");
    } else if (!strcmp(first, "state")) {
        for (int i = 0; i < PORTS; i++)
            used += ports[i].is_used;
        control_answer(answer_to, 0, "version=%u calls=%d complaints=%u\n", version, used, complaints());
        for (unsigned i = 0; i < complaints(); i++)
            if (*complaint(i)) {
                write_all(answer_to, complaint(i), strlen(complaint(i)));
                write_all(answer_to, "\n", 1);
            }
    } else if (!strcmp(first, "close")) {
        control_answer(answer_to, 0, "closed\n");
        close(answer_to);
        restart();
        return;
    } else {
        control_answer(answer_to, 1, "cannot do this: %s\n", first);
    }
    close(answer_to);
}

int run_rexec(const char *program, const char *from, char **arguments)
{
    self = program;
    library = from;
    domain = number(arguments[0]);
    directory = arguments[1];
    if (arguments[2]) {
        own_version = number(arguments[2]);
        seconds = arguments[3] ? number(arguments[3]) : seconds;
    }
    signal(SIGCHLD, SIG_IGN);
    say("waiting for the agent of domain %d", domain);
    connect_agent(seconds);
    int listener = control_listen(directory);
    say("ready");
    while (domain_exists(domain)) {
        struct pollfd ready[] = {
            { .fd = channel_fd(&channel), .events = POLLIN },
            { .fd = listener, .events = POLLIN },
        };
        poll(ready, 2, 1000);
        if (ready[0].revents)
            channel_take_event(&channel);
        serve_channel();
        if (ready[1].revents) {
            serve_control(listener);
            serve_channel();
        }
    }
    say("domain %d is gone", domain);
    return 0;
}
