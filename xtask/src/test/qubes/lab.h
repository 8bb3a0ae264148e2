/* lab-qubes is dom0's side of a qube, for checks in the lab: QubesDB's daemon, and qrexec's daemon and client. This is
 * what its parts share. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* channel.c: a vchan through Xen's own library, with what has come and what is still to go. */

struct vchan;

struct channel {
    struct vchan *vchan;
    unsigned char *in, *out;
    size_t in_len, out_len, out_room;
    int is_closed;
    /* Of a server, until its client is there: where its keys are. */
    char keys[64];
};

/* More than the largest message: a chunk of data or a service's name, with what is before them. */
#define IN_ROOM (128 << 10)

void load_library(const char *name);
/* Begins to listen for a domain; 0, or -1 if that cannot be, for instance because the domain is gone. */
int channel_serve(struct channel *channel, int domain, int port, size_t ring);
/* Connects to a domain's server; 0, or -1 if there is none for so long or the domain is gone. */
int channel_connect(struct channel *channel, int domain, int port, int seconds);
/* Whether the peer has been there. */
int channel_is_connected(struct channel *channel);
int channel_fd(struct channel *channel);
/* Takes the event that the descriptor was ready for. */
void channel_take_event(struct channel *channel);
/* Reads and writes as much as goes at once. */
void channel_move(struct channel *channel);
void channel_put(struct channel *channel, const void *data, size_t len);
void channel_consume(struct channel *channel, size_t len);
void channel_drop(struct channel *channel);
int domain_exists(int domain);

/* control.c: a socket in a directory, by which a check tells a daemon what to do. */

#define MAX_WORDS 2048

int control_listen(const char *directory);
/* Takes a request: its words are in `words`, with a null pointer behind them. Returns where it is to be answered, or -1. */
int control_accept(int listener, char **words);
void control_answer(int answer_to, int has_failed, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Sends a request, and returns where the answer comes. */
int control_request(const char *directory, char **words);
int control_ask(const char *directory, char **words);

/* main.c */

/* Prints a line into the log, which is what the program prints. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line that the check reads later: the guest did what it must not do. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
unsigned complaints(void);
const char *complaint(unsigned index);
void fail(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
int64_t now_ms(void);
void write_all(int fd, const void *data, size_t len);
int number(const char *text);

/* db.c, rexec.c, data.c, guest.c: the subcommands, with the arguments behind the library's name. */

int run_db(char **arguments);
int run_rexec(const char *self, const char *library, char **arguments);
int run_exec(char **arguments);
int run_serve(char **arguments);
int run_guest(char **arguments);

/* entries.c: the entries of QubesDB, in the order of their paths. */

#define MAX_PATH 64
#define MAX_DATA 3072

struct entry {
    char path[MAX_PATH];
    size_t len;
    char *value;
};

extern struct entry *entries;
extern size_t entry_count;

int path_is_valid(const char *path);
/* Whether it can be an entry's: from the root, and not a directory's. */
int path_is_entry(const char *path);
void entries_load(const char *file);
/* The first entry that does not come before `path`. */
size_t entry_place(const char *path);
struct entry *entry_find(const char *path);
void entry_set(const char *path, const void *value, size_t len);
/* Removes an entry, or all below a path that ends in a slash; returns how many. */
size_t entries_remove(const char *path);

/* qrexec's numbers (qrexec.h of QubesOS/qubes-core-qrexec). */
enum {
    EXEC_CMDLINE = 0x200, JUST_EXEC, SERVICE_CONNECT, SERVICE_REFUSED,
    TRIGGER_SERVICE = 0x210, CONNECTION_TERMINATED, TRIGGER_SERVICE3, TRIGGER_SERVICE4,
    HELLO = 0x300,
    DATA_STDIN = 0x190, DATA_STDOUT, DATA_STDERR, DATA_EXIT_CODE,
};

#define OWN_VERSION 4
#define MIN_VERSION 2
#define PROBLEM 125

struct message {
    uint32_t type, len;
};

void put_message(struct channel *channel, uint32_t type, const void *data, size_t len);
/* The first message that has come whole, or null; one that is longer than `max` ends the program. */
const struct message *first_message(struct channel *channel, size_t max);
/* Waits for the peer's greeting, and returns its version. */
uint32_t wait_hello(struct channel *channel, int seconds);
