/*
 * Versions of tags: invalidating a tag is O(1) whatever the number of entries, durable, and
 * independent of the index.
 *
 * The truth is `tags.log` in the root, a file of bounded size (docs/store.md gives its bytes):
 *
 *     head {magic, version, capacity, floor, check}: 64 bytes
 *
 *     two commit slots of 32 bytes
 *
 *     records {length, sum, version, tag}
 *
 * A record is written first, then the commit slot that is not current, then one fdatasync covers
 * both. Whatever lies beyond the committed length is not there; a committed length that the bytes
 * do not bear out means a damaged log. A log that is lost or damaged is replaced by one whose floor
 * is now: every tagged entry captured before becomes a miss. In a root that never held an entry
 * nothing was lost, and the floor of its first log is 0: entries that another machine captured
 * before this root was made, and that come here from a shared tier, are good.
 *
 * Each process keeps the newest version of every tag in a table, filled from the log and filled
 * again only when the log has changed: a shared counter of the index says so, or without an index
 * the 64 bytes of the commit slots. What the log could not be told, for it cannot be written, is
 * kept in a table of the process: it gives out nothing that was invalidated, whatever fails.
 *
 * Threads: every function may be called from any thread. Fork: call cog_tags_after_fork() in the
 * child.
 */
#ifndef COG_TAGS_H
#define COG_TAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct cog_fs;
struct cog_tags;

enum {
    COG_TAG_LIMIT = 1024,             /* bytes of one tag */
    COG_TAGS_LOG_SMALLEST = 64 << 10, /* capacity of the log: limit/256 between these two */
    COG_TAGS_LOG_LARGEST = 4 << 20,
    COG_TAGS_AHEAD_US =
        1000 * 1000 /* a new version lies this far ahead of the clock, see cog_tags_invalidate */
};

struct cog_tags_options {
    int root;          /* descriptor of the root directory; not closed here */
    uint64_t capacity; /* bytes of a new log; an existing one keeps its own */
    unsigned mode;     /* of a new log: 0600, or 0660 in a shared root */
    bool writable;
    /*
     * The counter that all processes of the root share: does it say something (false: no index just
     * now), and what? `notify` moves it on. NULL: there is none.
     */
    bool (*signal)(void *context, uint64_t *value);
    void (*notify)(void *context);
    /* Did the root never hold an entry? NULL: it may have. */
    bool (*is_unused)(void *context);
    void *context;
};

/* Makes the log where it is missing or damaged and the root is writable. COG_ERR_IO, COG_ERR_NOMEM.
 */
enum cog_status cog_tags_open(const struct cog_fs *fs, const struct cog_tags_options *options,
                              struct cog_tags **out, struct cog_error *err);
void cog_tags_close(struct cog_tags *tags); /* accepts NULL */
void cog_tags_after_fork(struct cog_tags *tags);

/*
 * Does the table hold what the log holds now? With `may_read` false (the caller must not block)
 * COG_ERR_WOULD_BLOCK when it has to be read. COG_ERR_IO: the log cannot be read; every tagged
 * entry is then a miss until it can.
 */
enum cog_status cog_tags_refresh(struct cog_tags *tags, bool may_read, struct cog_error *err);

/* Newest version of a tag in microseconds since the epoch, never below the floor. Of the table:
 * refresh first. */
uint64_t cog_tags_version(struct cog_tags *tags, const void *name, size_t size);
/* Newest of all versions, the floor included: has anything been invalidated since it was asked
 * last? */
uint64_t cog_tags_newest(struct cog_tags *tags);
/* Is an entry that captured `captured` for this tag still good? `now_us` exposes captures from a
 * clock gone wrong. */
bool cog_tags_is_current(struct cog_tags *tags, const void *name, size_t size, uint64_t captured,
                         uint64_t now_us);

struct cog_tag_name {
    const void *name;
    size_t size;
};

/*
 * Give each tag a new version: max(now + 1 s, newest of all + 1, above + 1), where `above` is what
 * else is known to have been captured, in another tier. The second ahead covers clocks
 * that are set back or differ between hosts; who captures afterwards sees the new version and is
 * raised to it. Durable when it returns. COG_ERR_LIMIT: a tag is empty or over COG_TAG_LIMIT.
 * COG_ERR_READ_ONLY, COG_ERR_BUSY (lock), COG_ERR_IO: other processes will not see it, this one
 * does.
 */
enum cog_status cog_tags_invalidate(struct cog_tags *tags, const struct cog_tag_name *names,
                                    size_t count, uint64_t above, struct cog_error *err);

#endif
