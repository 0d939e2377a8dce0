/* The byte filters (codec.h; docs/format.md has the rule). */
#include <string.h>

#include "core/codec.h"
#include "core/filter_kernels.h"
#include "core/filter_wide.h"

/* What does not depend on the direction. False: `*status` is the answer, nothing is left to do. */
static bool has_elements(uint8_t filter, uint8_t element_size, const void *in, void *out,
                         size_t size, enum cog_status *status)
{
    size_t left;

    *status = COG_OK;
    if (filter > COG_FILTER_BITSHUFFLE) {
        *status = COG_ERR_UNSUPPORTED;
        return false;
    }
    if (filter != COG_FILTER_NONE && element_size == 0) {
        *status = COG_ERR_INVALID;
        return false;
    }
    if (size == 0)
        return false;
    /* Bytes behind the last whole element stay as they are; without a filter all do. */
    left = filter == COG_FILTER_NONE ? size : size % element_size;
    memcpy((unsigned char *)out + (size - left), (const unsigned char *)in + (size - left), left);
    return left < size;
}

enum cog_status cog_filter_apply(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                 size_t size)
{
    enum cog_status status;

    if (!has_elements(filter, element_size, in, out, size, &status))
        return status;
    if (COG_FILTER_WIDE())
        cog_filter_elements_wide(filter, element_size, in, out, size / element_size);
    else
        filter_elements(filter, element_size, in, out, size / element_size);
    return COG_OK;
}

enum cog_status cog_filter_undo(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                size_t size)
{
    enum cog_status status;

    if (!has_elements(filter, element_size, in, out, size, &status))
        return status;
    if (COG_FILTER_WIDE())
        cog_unfilter_elements_wide(filter, element_size, in, out, size / element_size);
    else
        unfilter_elements(filter, element_size, in, out, size / element_size);
    return COG_OK;
}
