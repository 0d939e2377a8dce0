/*
 * Status codes: what a call of the core can answer, and the texts for people.
 *
 * COG_OK is 0, COG_ABSENT is 1 (a miss is an answer, not an error), errors are negative. Where the
 * system spoke, its errno and a short text travel in an optional `struct cog_error`, filled by the
 * callee that knows most.
 */
#ifndef COG_STATUS_H
#define COG_STATUS_H

enum cog_status {
    COG_OK = 0,
    COG_ABSENT = 1,           /* no such entry, part or row */
    COG_ERR_NOMEM = -1,       /* allocation refused */
    COG_ERR_INVALID = -2,     /* misuse: an argument that no caller should pass */
    COG_ERR_LIMIT = -3,       /* input over a stated limit; the text names it */
    COG_ERR_IO = -4,          /* the system refused; errno in cog_error */
    COG_ERR_DAMAGED = -5,     /* bytes fail a checksum or a rule of the format */
    COG_ERR_FOREIGN = -6,     /* another key, another major version: a plain miss, never touched */
    COG_ERR_UNSUPPORTED = -7, /* this part or value needs something that this build does not know */
    COG_ERR_BUSY = -8,        /* a lock or a slot was not to be had in time; nothing happened */
    COG_ERR_FULL = -9,        /* size limit or disk: no room could be made; nothing happened */
    COG_ERR_TOO_LARGE = -10,  /* the object alone is over the share one object may take */
    COG_ERR_READ_ONLY = -11,  /* the root, or the store as opened, takes no writes */
    COG_ERR_WOULD_BLOCK = -12, /* the non-blocking form cannot answer; ask the blocking one */
    COG_ERR_CLOSED = -13,      /* the handle is closed */
    COG_ERR_REFUSED = -14,   /* hostile or unusable surroundings: foreign owner, not a directory */
    COG_ERR_CANCELLED = -15, /* given up on request before it took effect */
    /* internal to freshness checks: present but past its life (callers see COG_ABSENT) */
    COG_ERR_EXPIRED = -16
};

/* Why a lookup was a miss, for explanations and counters; COG_MISS_NONE on a hit. */
enum cog_miss {
    COG_MISS_NONE = 0,
    COG_MISS_ABSENT,      /* no file of that name */
    COG_MISS_EXPIRED,     /* its life is over */
    COG_MISS_TAG,         /* a tag of it was invalidated after it was captured */
    COG_MISS_DAMAGED,     /* failed its checks twice; now in quarantine */
    COG_MISS_FOREIGN,     /* another key or major version under that name */
    COG_MISS_UNAVAILABLE, /* the system refused (EMFILE, EACCES, EIO ...); nothing was deleted */
    COG_MISS_COUNT
};

struct cog_error {
    enum cog_status status;
    int sys_errno; /* 0 when the system did not speak */
    /* operation and cause, no trailing full stop; empty when the status says it all */
    char text[192];
};

/* A constant English text for a status, such as "damaged"; never NULL. */
const char *cog_status_text(enum cog_status status);
/* The public, stable reason word for a status ("no-space", "too-large", "read-only", ...); never
 * NULL. */
const char *cog_status_reason(enum cog_status status);
/* The public, stable reason word for a miss ("absent", "expired", "tag", ...). */
const char *cog_miss_reason(enum cog_miss miss);

/* Fill `err` (may be NULL) and return `status`, so that callers can write `return cog_fail(err,
 * ...)`. */
#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
enum cog_status
cog_fail(struct cog_error *err, enum cog_status status, int sys_errno, const char *format, ...);

#endif
