#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

const char *cog_status_text(enum cog_status status)
{
    switch (status) {
    case COG_OK: return "ok";
    case COG_ABSENT: return "absent";
    case COG_ERR_NOMEM: return "out of memory";
    case COG_ERR_INVALID: return "invalid argument";
    case COG_ERR_LIMIT: return "over a limit";
    case COG_ERR_IO: return "the system refused";
    case COG_ERR_DAMAGED: return "damaged";
    case COG_ERR_FOREIGN: return "foreign entry";
    case COG_ERR_UNSUPPORTED: return "unsupported";
    case COG_ERR_BUSY: return "busy";
    case COG_ERR_FULL: return "no space within the limit";
    case COG_ERR_TOO_LARGE: return "too large for this cache";
    case COG_ERR_READ_ONLY: return "read-only";
    case COG_ERR_WOULD_BLOCK: return "would block";
    case COG_ERR_CLOSED: return "closed";
    case COG_ERR_REFUSED: return "refused";
    case COG_ERR_CANCELLED: return "cancelled";
    case COG_ERR_EXPIRED: return "expired";
    }
    return "unknown status";
}

const char *cog_status_reason(enum cog_status status)
{
    switch (status) {
    case COG_OK: return "stored";
    case COG_ABSENT: return "absent";
    case COG_ERR_NOMEM: return "no-memory";
    case COG_ERR_INVALID: return "invalid";
    case COG_ERR_LIMIT: return "over-limit";
    case COG_ERR_IO: return "io-error";
    case COG_ERR_DAMAGED: return "damaged";
    case COG_ERR_FOREIGN: return "foreign";
    case COG_ERR_UNSUPPORTED: return "unsupported";
    case COG_ERR_BUSY: return "busy";
    case COG_ERR_FULL: return "no-space";
    case COG_ERR_TOO_LARGE: return "too-large";
    case COG_ERR_READ_ONLY: return "read-only";
    case COG_ERR_WOULD_BLOCK: return "would-block";
    case COG_ERR_CLOSED: return "closed";
    case COG_ERR_REFUSED: return "refused";
    case COG_ERR_CANCELLED: return "cancelled";
    case COG_ERR_EXPIRED: return "expired";
    }
    return "unknown";
}

const char *cog_miss_reason(enum cog_miss miss)
{
    static const char *const words[COG_MISS_COUNT] = {
        "hit", "absent", "expired", "tag-invalidated", "damaged", "foreign", "unavailable",
    };
    return (unsigned)miss < COG_MISS_COUNT ? words[miss] : "unknown";
}

enum cog_status cog_fail(struct cog_error *err, enum cog_status status, int sys_errno,
                         const char *format, ...)
{
    if (err) {
        va_list args;
        err->status = status;
        err->sys_errno = sys_errno;
        va_start(args, format);
        (void)vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}
