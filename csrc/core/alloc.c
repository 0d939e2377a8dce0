#include "core/alloc.h"

#include <stdlib.h>
#include <string.h>

static struct cog_alloc_hooks hooks = {malloc, realloc, free};

void cog_alloc_set_hooks(const struct cog_alloc_hooks *replacement)
{
    static const struct cog_alloc_hooks standard = {malloc, realloc, free};
    hooks = replacement ? *replacement : standard;
}

void *cog_alloc(size_t size)
{
    return hooks.alloc(size ? size : 1);
}

void *cog_alloc_zeroed(size_t count, size_t size)
{
    size_t total;
    void *block;
    if (cog_mul_overflows(count, size, &total))
        return NULL;
    block = cog_alloc(total);
    if (block)
        memset(block, 0, total);
    return block;
}

void *cog_realloc(void *block, size_t size)
{
    return hooks.resize(block, size ? size : 1);
}

void cog_free(void *block)
{
    hooks.release(block);
}
