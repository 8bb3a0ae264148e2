/* What these programs use of Xen's libxenvchan, which is loaded when it is known where it is. Its own header is not needed: what is
 * used is declared here (libxenvchan.h). */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The beginning of struct libxenvchan. Its flag is not set to anything by the library. */
struct vchan {
    void *grants;
    void *page;
    void *events;
    uint32_t port;
    unsigned int is_server : 1, persists : 1, blocking : 1;
};

static struct vchan *(*server_init)(void *, int, const char *, size_t, size_t);
static struct vchan *(*client_init)(void *, int, const char *);
static int (*vchan_read)(struct vchan *, void *, size_t);
static int (*vchan_write)(struct vchan *, const void *, size_t);
static int (*vchan_wait)(struct vchan *);
static int (*vchan_is_open)(struct vchan *);
static int (*vchan_fd)(struct vchan *);
static void (*vchan_close)(struct vchan *);

static void *library;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "the library has no %s\n", name);
        exit(1);
    }
    return found;
}

static void load_vchan(const char *name)
{
    library = dlopen(name, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    server_init = symbol("libxenvchan_server_init");
    client_init = symbol("libxenvchan_client_init");
    vchan_read = symbol("libxenvchan_read");
    vchan_write = symbol("libxenvchan_write");
    vchan_wait = symbol("libxenvchan_wait");
    vchan_is_open = symbol("libxenvchan_is_open");
    vchan_fd = symbol("libxenvchan_fd_for_select");
    vchan_close = symbol("libxenvchan_close");
}
