/* The entries of QubesDB, in the order of their paths. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"

#define MAX_ENTRIES 4096

struct entry *entries;
size_t entry_count;

int path_is_valid(const char *path)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.:@-";
    return strlen(path) < MAX_PATH && path[0] != '-' && strspn(path, allowed) == strlen(path);
}

int path_is_entry(const char *path)
{
    return path_is_valid(path) && path[0] == '/' && path[strlen(path) - 1] != '/';
}

void entries_load(const char *file)
{
    char line[MAX_PATH + MAX_DATA];
    FILE *stream = fopen(file, "r");
    if (!stream)
        fail(1, "%s: %s", file, strerror(errno));
    while (fgets(line, sizeof(line), stream)) {
        line[strcspn(line, "\n")] = 0;
        char *value = line + strcspn(line, " ");
        if (*value)
            *value++ = 0;
        if (!path_is_entry(line))
            fail(1, "%s: not the path of an entry: %s", file, line);
        entry_set(line, value, strlen(value));
    }
    fclose(stream);
}

size_t entry_place(const char *path)
{
    size_t low = 0, high = entry_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(entries[middle].path, path) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct entry *entry_find(const char *path)
{
    size_t place = entry_place(path);
    return place < entry_count && !strcmp(entries[place].path, path) ? &entries[place] : NULL;
}

void entry_set(const char *path, const void *value, size_t len)
{
    struct entry *entry = entry_find(path);
    if (!entry) {
        size_t place = entry_place(path);
        if (entry_count == MAX_ENTRIES)
            fail(1, "more than %d entries", MAX_ENTRIES);
        entries = entries ? entries : calloc(MAX_ENTRIES, sizeof(*entries));
        if (!entries)
            fail(1, "no memory");
        entry = entries + place;
        memmove(entry + 1, entry, (entry_count++ - place) * sizeof(*entry));
        memset(entry, 0, sizeof(*entry));
        strcpy(entry->path, path);
    }
    free(entry->value);
    entry->value = malloc(len + 1);
    if (!entry->value)
        fail(1, "no memory");
    memcpy(entry->value, value, len);
    entry->value[len] = 0;
    entry->len = len;
}

size_t entries_remove(const char *path)
{
    size_t len = strlen(path), first = entry_place(path), end = first;
    /* With the NUL behind it, where only the one is meant. */
    size_t compared = len && path[len - 1] == '/' ? len : len + 1;
    while (end < entry_count && !strncmp(entries[end].path, path, compared))
        free(entries[end++].value);
    if (end > first)
        memmove(entries + first, entries + end, (entry_count - end) * sizeof(*entries));
    entry_count -= end - first;
    return end - first;
}
