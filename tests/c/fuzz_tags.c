/*
 * Any bytes as tags.log, and a sound log with some bytes changed. A tag that was invalidated never
 * falls back below its version: what cannot be read raises the floor instead.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fs.h"
#include "core/tags.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TAGS = 3 };
static const char *const names[TAGS] = {"a", "uri:0123456789abcdef", "model-weights"};

static char folder[] = "/tmp/cogcache-fuzz-XXXXXX";
static int root = -1;

static void must(bool held)
{
    if (!held) {
        abort();
    }
}

static void leave(void)
{
    (void)unlinkat(root, "tags.log", 0);
    (void)unlinkat(root, "tmp", AT_REMOVEDIR);
    (void)rmdir(folder);
}

static struct cog_tags *open_log(void)
{
    struct cog_tags_options options = {
        .root = root, .capacity = COG_TAGS_LOG_SMALLEST, .mode = 0600, .writable = true};
    struct cog_tags *tags = NULL;

    must(cog_tags_open(cog_fs_system(), &options, &tags, NULL) == COG_OK);
    must(cog_tags_refresh(tags, true, NULL) == COG_OK);
    return tags;
}

static uint64_t version_of(struct cog_tags *tags, unsigned which)
{
    return cog_tags_version(tags, names[which], strlen(names[which]));
}

/* `data` as the whole log. */
static void read_any(const uint8_t *data, size_t size)
{
    int fd = openat(root, "tags.log", O_WRONLY | O_CREAT | O_TRUNC, 0600);

    must(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
    struct cog_tags *tags = open_log();
    (void)version_of(tags, 0);
    cog_tags_close(tags);
}

/* Pairs of position and change over a sound log. */
static void read_changed(const uint8_t *data, size_t size)
{
    uint64_t version[TAGS];
    struct cog_tags *tags = open_log();

    for (unsigned i = 0; i < TAGS; i++) {
        struct cog_tag_name name = {names[i], strlen(names[i])};

        must(cog_tags_invalidate(tags, &name, 1, 0, NULL) == COG_OK);
        version[i] = version_of(tags, i);
    }
    cog_tags_close(tags);
    int fd = openat(root, "tags.log", O_RDWR);
    must(fd >= 0);
    for (size_t i = 0; i + 1 < size; i += 2) {
        unsigned char byte;

        if (pread(fd, &byte, 1, data[i]) == 1) {
            byte ^= data[i + 1];
            must(pwrite(fd, &byte, 1, data[i]) == 1);
        }
    }
    must(close(fd) == 0);
    tags = open_log();
    for (unsigned i = 0; i < TAGS; i++) {
        must(version_of(tags, i) >= version[i]);
    }
    cog_tags_close(tags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (root < 0) {
        must(mkdtemp(folder) != NULL);
        root = open(folder, O_RDONLY | O_DIRECTORY);
        must(root >= 0 && mkdirat(root, "tmp", 0700) == 0 && atexit(leave) == 0);
    }
    if (size == 0) {
        return 0;
    }
    (void)unlinkat(root, "tags.log", 0);
    if (data[0] & 1) {
        read_any(data + 1, size - 1);
    } else {
        read_changed(data + 1, size - 1);
    }
    return 0;
}
