/* dom0's part in checks and benchmarks of the store, through the toolstack's own library:
 *   count PATH TIMES    adds one to the number at PATH, TIMES over, each time in a transaction
 *   read PATH SECONDS   reads PATH as often as can be, one request after the other
 * The library's header is not needed: what is used of it is declared here (xenstore.h of libxenstore 4). */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct xs_handle;

static void *library;

static struct xs_handle *(*xs_open)(unsigned long);
static unsigned int (*xs_transaction_start)(struct xs_handle *);
static bool (*xs_transaction_end)(struct xs_handle *, unsigned int, bool);
static void *(*xs_read)(struct xs_handle *, unsigned int, const char *, unsigned int *);
static bool (*xs_write)(struct xs_handle *, unsigned int, const char *, const void *, unsigned int);

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "libxenstore has no %s\n", name);
        exit(1);
    }
    return found;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void count(struct xs_handle *store, const char *path, int times)
{
    int tries = 0;
    for (int done = 0; done < times;) {
        char text[16];
        unsigned int len;
        unsigned int transaction = xs_transaction_start(store);
        char *value = transaction ? xs_read(store, transaction, path, &len) : NULL;
        if (!value)
            fail("xs_read");
        snprintf(text, sizeof(text), "%d", atoi(value) + 1);
        free(value);
        tries++;
        if (!xs_write(store, transaction, path, text, strlen(text)))
            fail("xs_write");
        if (xs_transaction_end(store, transaction, false))
            done++;
        else if (errno != EAGAIN)
            fail("xs_transaction_end");
    }
    printf("count: %d in %d tries\n", times, tries);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void read_on(struct xs_handle *store, const char *path, int seconds)
{
    long done = 0;
    double start = now();
    while (now() < start + seconds) {
        unsigned int len;
        char *value = xs_read(store, 0, path, &len);
        if (!value)
            fail("xs_read");
        free(value);
        done++;
    }
    printf("bench: store-read in-flight=1 per-second=%ld\n", (long)(done / (now() - start)));
}

int main(int argc, char **argv)
{
    if (argc != 4 || !(library = dlopen("libxenstore.so.4", RTLD_NOW))) {
        fprintf(stderr, "usage: lab-store count PATH TIMES | read PATH SECONDS; libxenstore.so.4 is needed\n");
        return 1;
    }
    xs_open = symbol("xs_open");
    xs_transaction_start = symbol("xs_transaction_start");
    xs_transaction_end = symbol("xs_transaction_end");
    xs_read = symbol("xs_read");
    xs_write = symbol("xs_write");
    struct xs_handle *store = xs_open(0);
    if (!store)
        fail("xs_open");
    if (!strcmp(argv[1], "count"))
        count(store, argv[2], atoi(argv[3]));
    else
        read_on(store, argv[2], atoi(argv[3]));
    return 0;
}
