/* QubesDB's daemon in dom0 for one domain, as strict as the original: what ends that ends the channel here, and the guest
 * may connect again. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lab.h"

#define PORT 111
#define RING 4096
#define HEADER 72
#define ANSWER_MS 10000
#define MAX_UNANSWERED 4096

enum { READ, WRITE, MULTIREAD, LIST, RM, WATCH, UNWATCH, OK, NOENT, ERROR, READ_RESP, MULTIREAD_RESP };

struct message_header {
    uint8_t type;
    char path[MAX_PATH];
    uint32_t len;
};
_Static_assert(sizeof(struct message_header) == HEADER, "the compiler's layout");

static enum { WAITING, CONNECTED, COPIED } phase;
static struct channel channel;
static int domain;
static unsigned copies;

/* What the guest has not answered yet, in order. */
static char unanswered[MAX_UNANSWERED][MAX_PATH];
static uint64_t sent, answered;
/* Who waits for an answer to what was sent up to there. */
static int waiting = -1;
static uint64_t waiting_for;
static int64_t waiting_until;

static void put(int type, const char *path, const void *data, size_t len)
{
    struct message_header header = { .type = type, .len = len };
    strncpy(header.path, path, MAX_PATH - 1);
    channel_put(&channel, &header, HEADER);
    channel_put(&channel, data, len);
}

static void finish_waiting(int has_failed, const char *why)
{
    if (waiting < 0)
        return;
    control_answer(waiting, has_failed, "%s\n", why);
    close(waiting);
    waiting = -1;
}

static void begin(void)
{
    while (channel_serve(&channel, domain, PORT, RING)) {
        if (!domain_exists(domain)) {
            say("domain %d is gone", domain);
            exit(0);
        }
        poll(NULL, 0, 100);
    }
}

/* Ends the channel, and listens again. */
static void end(const char *why)
{
    say("the channel ends: %s", why);
    channel_drop(&channel);
    finish_waiting(1, why);
    sent = answered = 0;
    phase = WAITING;
    begin();
}

static void copy(const char *prefix)
{
    /* From the last to the first where all is asked for, as the original does. */
    for (size_t i = entry_count; i-- > 0;)
        if (!strncmp(entries[i].path, prefix, strlen(prefix)))
            put(MULTIREAD_RESP, entries[i].path, entries[i].value, entries[i].len);
    put(MULTIREAD_RESP, "", NULL, 0);
    copies++;
    phase = COPIED;
    say("copied %zu entries", entry_count);
}

static void take_answer(int type, const char *path)
{
    if (sent == answered) {
        complain("an answer to nothing, of the path %s", path);
        return;
    }
    const char *expected = unanswered[answered++ % MAX_UNANSWERED];
    if (strcmp(path, expected))
        complain("an answer of the path %s, where %s was next", path, expected);
    if (type == ERROR)
        complain("an error for %s", path);
    say("%s %s", type == OK ? "OK" : "ERROR", path);
    if (waiting >= 0 && answered >= waiting_for)
        finish_waiting(0, "answered");
}

/* Handles one message; says why it ends the channel if it does. */
static const char *handle(const struct message_header *header, const char *data)
{
    switch (header->type) {
    case WRITE:
        if (memchr(data, 0, header->len)) {
            complain("a NUL in the value of %s", header->path);
            put(ERROR, header->path, NULL, 0);
            return NULL;
        }
        say("WRITE %s = %.*s", header->path, (int)header->len, data);
        if (!path_is_entry(header->path)) {
            put(ERROR, header->path, NULL, 0);
            return "a WRITE to a path that is not an entry's";
        }
        entry_set(header->path, data, header->len);
        put(OK, header->path, NULL, 0);
        return NULL;
    case RM:
        say("RM %s", header->path);
        if (header->len) {
            complain("an RM with data");
            put(ERROR, header->path, NULL, 0);
            return NULL;
        }
        if (!entries_remove(header->path)) {
            put(NOENT, header->path, NULL, 0);
            return "an RM of what is not there";
        }
        put(OK, header->path, NULL, 0);
        return NULL;
    case MULTIREAD:
        say("MULTIREAD %s", header->path);
        if (phase == COPIED) {
            put(ERROR, header->path, NULL, 0);
            return "a second MULTIREAD";
        }
        if (header->len)
            return "a MULTIREAD with data";
        copy(header->path);
        return NULL;
    case ERROR:
        if (header->len)
            return "an ERROR with data";
        /* fall through */
    case OK:
        take_answer(header->type, header->path);
        return NULL;
    default:
        return "a message that is not for this channel";
    }
}

/* Handles the messages that have come whole. */
static void handle_all(void)
{
    char reason[128];
    while (channel.in_len >= HEADER) {
        struct message_header header;
        const char *why = NULL;
        memcpy(&header, channel.in, HEADER);
        header.path[MAX_PATH - 1] = 0;
        if (header.len >= MAX_DATA)
            why = "a value that is too long";
        else if (!path_is_valid(header.path))
            why = "a path that cannot be";
        else if (channel.in_len < HEADER + header.len)
            return;
        else
            why = handle(&header, (char *)channel.in + HEADER);
        if (why) {
            snprintf(reason, sizeof(reason), "%s (type %u, %u bytes)", why, header.type, header.len);
            complain("%s", reason);
            channel_move(&channel);
            end(reason);
            return;
        }
        channel_consume(&channel, HEADER + header.len);
    }
}

static void serve_channel(void)
{
    if (!channel_is_connected(&channel))
        return;
    if (phase == WAITING) {
        phase = CONNECTED;
        say("the guest is connected");
    }
    do {
        channel_move(&channel);
        handle_all();
        if (phase == WAITING)
            return;
        channel_move(&channel);
    } while (channel.in_len >= HEADER + MAX_DATA);
    if (channel.is_closed) {
        if (phase == CONNECTED)
            complain("closed before MULTIREAD, which ends the original for good");
        end("the guest has closed it");
    }
}

/* Tells the guest, and remembers that it has to answer. */
static void push(int type, const char *path, const char *value)
{
    if (phase != COPIED)
        return;
    if (sent - answered == MAX_UNANSWERED)
        fail(1, "the guest has not answered %d messages", MAX_UNANSWERED);
    strcpy(unanswered[sent++ % MAX_UNANSWERED], path);
    put(type, path, value, strlen(value));
}

/* All changes of a request are sent before an answer to any is waited for. */
static int change(char **words, int answer_to)
{
    for (char **word = words; *word;) {
        int writes = !strcmp(word[0], "write") && word[1] && word[2];
        int removes = !strcmp(word[0], "rm") && word[1];
        const char *path = word[1];
        if (writes ? !path_is_entry(path) || strlen(word[2]) >= MAX_DATA : !removes || !path_is_valid(path)) {
            control_answer(answer_to, 1, "cannot do this: %s %s\n", word[0], path ? path : "");
            return 0;
        }
        if (writes) {
            entry_set(path, word[2], strlen(word[2]));
            push(WRITE, path, word[2]);
        } else if (entries_remove(path)) {
            push(RM, path, "");
        }
        word += writes ? 3 : 2;
    }
    if (phase != COPIED || sent == answered) {
        control_answer(answer_to, 0, "%s\n", phase == COPIED ? "nothing to tell" : "kept: no guest has a copy");
        return 0;
    }
    waiting = answer_to;
    waiting_for = sent;
    waiting_until = now_ms() + ANSWER_MS;
    return 1;
}

static void state(int answer_to)
{
    static const char *const names[] = { "waiting", "connected", "copied" };
    char text[8192];
    int len = snprintf(text, sizeof(text), "phase=%s copies=%u entries=%zu unanswered=%u complaints=%u\n", names[phase],
                       copies, entry_count, (unsigned)(sent - answered), complaints());
    for (unsigned i = 0; i < complaints() && len < (int)sizeof(text) - 300; i++)
        if (*complaint(i))
            len += snprintf(text + len, sizeof(text) - len, "%s\n", complaint(i));
    control_answer(answer_to, 0, "%s", text);
}

static void list(const char *prefix, int answer_to)
{
    char *text = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);
    if (!stream)
        fail(1, "no memory");
    for (size_t i = entry_place(prefix); i < entry_count && !strncmp(entries[i].path, prefix, strlen(prefix)); i++)
        fprintf(stream, "%s %.*s\n", entries[i].path, (int)entries[i].len, entries[i].value);
    fclose(stream);
    control_answer(answer_to, 0, "%s", text);
    free(text);
}

static void serve_control(int listener)
{
    static char *words[MAX_WORDS + 1];
    int answer_to = control_accept(listener, words);
    if (answer_to < 0)
        return;
    const char *first = words[0] ? words[0] : "";
    if (!strcmp(first, "read") && words[1]) {
        struct entry *entry = entry_find(words[1]);
        control_answer(answer_to, !entry, "%.*s", entry ? (int)entry->len : 0, entry ? entry->value : "");
    } else if (!strcmp(first, "list")) {
        list(words[1] ? words[1] : "", answer_to);
    } else if (!strcmp(first, "state")) {
        state(answer_to);
    } else if (!strcmp(first, "close")) {
        end("the check wants it");
        control_answer(answer_to, 0, "closed\n");
    } else if (change(words, answer_to)) {
        return;
    }
    close(answer_to);
}

static volatile sig_atomic_t is_terminated;

static void terminate(int signal)
{
    (void)signal;
    is_terminated = 1;
}

int run_db(char **arguments)
{
    char file[256];
    /* It takes its keys away. */
    signal(SIGTERM, terminate);
    domain = number(arguments[0]);
    snprintf(file, sizeof(file), "%s/entries", arguments[1]);
    entries_load(file);
    begin();
    int listener = control_listen(arguments[1]);
    say("listening for domain %d with %zu entries", domain, entry_count);
    for (int64_t looked = now_ms(); !is_terminated;) {
        struct pollfd ready[] = {
            { .fd = channel_fd(&channel), .events = POLLIN },
            { .fd = waiting < 0 ? listener : -1, .events = POLLIN },
        };
        poll(ready, 2, 500);
        if (ready[0].revents)
            channel_take_event(&channel);
        serve_channel();
        if (ready[1].revents)
            serve_control(listener);
        if (waiting >= 0 && now_ms() > waiting_until)
            finish_waiting(1, "no answer within 10 seconds");
        serve_channel();
        if (now_ms() - looked > 1000) {
            looked = now_ms();
            if (!domain_exists(domain))
                break;
        }
    }
    channel_drop(&channel);
    say(is_terminated ? "domain %d is left alone" : "domain %d is gone", domain);
    return 0;
}
