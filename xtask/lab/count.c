/* Adds one to the number at a path of the store, many times, each in a transaction, through the toolstack's library.
 * The library's header is not needed: what is used of it is declared here (xenstore.h of libxenstore 4). */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct xs_handle;

static void *library;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "libxenstore has no %s\n", name);
        exit(1);
    }
    return found;
}

int main(int argc, char **argv)
{
    if (argc != 3 || !(library = dlopen("libxenstore.so.4", RTLD_NOW))) {
        fprintf(stderr, "usage: lab-count PATH TIMES; libxenstore.so.4 is needed: %s\n", dlerror());
        return 1;
    }
    struct xs_handle *(*open)(unsigned long) = symbol("xs_open");
    unsigned int (*start)(struct xs_handle *) = symbol("xs_transaction_start");
    bool (*end)(struct xs_handle *, unsigned int, bool) = symbol("xs_transaction_end");
    void *(*read)(struct xs_handle *, unsigned int, const char *, unsigned int *) = symbol("xs_read");
    bool (*write)(struct xs_handle *, unsigned int, const char *, const void *, unsigned int) = symbol("xs_write");

    struct xs_handle *store = open(0);
    if (!store) {
        perror("xs_open");
        return 1;
    }
    int times = atoi(argv[2]), tries = 0;
    for (int done = 0; done < times;) {
        char text[16];
        unsigned int len;
        unsigned int transaction = start(store);
        char *value = transaction ? read(store, transaction, argv[1], &len) : NULL;
        if (!value) {
            perror("xs_read");
            return 1;
        }
        snprintf(text, sizeof(text), "%d", atoi(value) + 1);
        free(value);
        tries++;
        if (!write(store, transaction, argv[1], text, strlen(text))) {
            perror("xs_write");
            return 1;
        }
        if (end(store, transaction, false))
            done++;
        else if (errno != EAGAIN) {
            perror("xs_transaction_end");
            return 1;
        }
    }
    printf("count: %d in %d tries\n", times, tries);
    return 0;
}
