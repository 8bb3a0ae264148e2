/* A socket in a directory, by which a check tells a daemon what to do. A request is words, each with a NUL behind it; the
 * answer is `0` or `1`, an exit status, and text. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lab.h"

static struct sockaddr_un address(const char *directory)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s/control", directory) >= sizeof(address.sun_path))
        fail(1, "the directory's name is too long: %s", directory);
    return address;
}

int control_listen(const char *directory)
{
    struct sockaddr_un own = address(directory);
    unlink(own.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&own, sizeof(own)) || listen(listener, 16))
        fail(1, "%s: %s", own.sun_path, strerror(errno));
    return listener;
}

int control_accept(int listener, char **words)
{
    static char text[1 << 20];
    size_t len = 0, count = 0;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return -1;
    struct timeval limit = { .tv_sec = 5 };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    for (ssize_t got; (got = read(fd, text + len, sizeof(text) - 1 - len)) > 0;)
        len += got;
    text[len] = 0;
    for (size_t at = 0; at < len && count < MAX_WORDS; at += strlen(text + at) + 1)
        words[count++] = text + at;
    words[count] = NULL;
    return fd;
}

void control_answer(int answer_to, int has_failed, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        fail(1, "no memory");
    va_end(arguments);
    /* Who has asked may be gone. */
    send(answer_to, has_failed ? "1" : "0", 1, MSG_NOSIGNAL);
    for (size_t at = 0; text[at];) {
        ssize_t sent = send(answer_to, text + at, strlen(text + at), MSG_NOSIGNAL);
        if (sent < 0)
            break;
        at += sent;
    }
    free(text);
}

int control_request(const char *directory, char **words)
{
    struct sockaddr_un daemon = address(directory);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&daemon, sizeof(daemon)))
        fail(1, "%s: %s", daemon.sun_path, strerror(errno));
    for (; *words; words++)
        write_all(fd, *words, strlen(*words) + 1);
    shutdown(fd, SHUT_WR);
    return fd;
}

int control_ask(const char *directory, char **words)
{
    char status, text[4096];
    int fd = control_request(directory, words);
    if (read(fd, &status, 1) != 1)
        fail(1, "the daemon of %s has ended", directory);
    for (ssize_t len; (len = read(fd, text, sizeof(text))) > 0;)
        write_all(1, text, len);
    return status != '0';
}
