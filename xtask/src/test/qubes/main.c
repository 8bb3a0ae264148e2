/* dom0's side of a qube, for checks in the lab:
 *   lab-qubes LIBRARY db DOMAIN DIRECTORY
 *     QubesDB's daemon. DIRECTORY/entries has a path and a value in each line.
 *   lab-qubes LIBRARY rexec DOMAIN DIRECTORY [VERSION [SECONDS]]
 *     qrexec's daemon, of the protocol's VERSION, which waits SECONDS for the agent. A line of DIRECTORY/services has a
 *     service's name, and a command of the shell's or `refuse`.
 *   lab-qubes LIBRARY exec|just-exec DIRECTORY USER COMMAND
 *     qrexec's client: a command of the qube's, with this program's standard streams. It ends as that does.
 *   lab-qubes ask DIRECTORY WORD…
 *     tells a daemon something, and prints what it answers:
 *       write PATH VALUE, rm PATH (any number of both), read PATH, list PREFIX; close, state
 * A daemon prints what the guest does, one line for each message, and runs until it is killed or the domain is gone. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lab.h"

#define KEPT 32

static char kept[KEPT][256];
static unsigned count;

static void usage(void)
{
    fail(1, "usage: lab-qubes ask DIRECTORY WORD…\n"
            "       lab-qubes LIBRARY db DOMAIN DIRECTORY\n"
            "       lab-qubes LIBRARY rexec DOMAIN DIRECTORY [VERSION [SECONDS]]\n"
            "       lab-qubes LIBRARY exec|just-exec DIRECTORY USER COMMAND");
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 4 && !strcmp(argv[1], "ask"))
        return control_ask(argv[2], argv + 3);
    if (argc < 5)
        usage();
    load_library(argv[1]);
    if (!strcmp(argv[2], "db") && argc == 5)
        return run_db(argv + 3);
    if (!strcmp(argv[2], "rexec") && argc <= 7)
        return run_rexec(argv[0], argv[1], argv + 3);
    if ((!strcmp(argv[2], "exec") || !strcmp(argv[2], "just-exec")) && argc == 6)
        return run_exec(argv + 2);
    /* The daemon's own, for a service that the guest calls. */
    if (!strcmp(argv[2], "serve") && argc == 7)
        return run_serve(argv + 3);
    /* A qube's side, for checks of the daemons: what it does that it must not, or `agent` and its version. */
    if (!strcmp(argv[2], "guest") && argc == 5)
        return run_guest(argv + 3);
    usage();
}

static void print(const char *before, const char *format, va_list arguments)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%ld.%03ld %s", (long)now.tv_sec, now.tv_nsec / 1000000, before);
    vprintf(format, arguments);
    putchar('\n');
}

void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print("", format, arguments);
    va_end(arguments);
}

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(kept[count++ % KEPT], sizeof(kept[0]), format, arguments);
    va_end(arguments);
    say("COMPLAINT: %s", kept[(count - 1) % KEPT]);
}

unsigned complaints(void)
{
    return count;
}

const char *complaint(unsigned index)
{
    return index < count && index + KEPT >= count ? kept[index % KEPT] : "";
}

void fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "lab-qubes: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(status);
}

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void write_all(int fd, const void *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t written = write(fd, (const char *)data + at, len - at);
        if (written < 0 && errno != EINTR)
            return;
        at += written > 0 ? written : 0;
    }
}

int number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (!*text || *end || value < 0 || value > 1 << 20)
        fail(1, "not a number: %s", text);
    return value;
}
