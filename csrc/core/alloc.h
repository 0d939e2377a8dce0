/*
 * Allocation: the only caller of malloc. Hooks let a test refuse the n-th allocation; sizes are
 * overflow-checked. Not to be changed while other threads allocate.
 */
#ifndef COG_ALLOC_H
#define COG_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

struct cog_alloc_hooks {
    void *(*alloc)(size_t size);
    void *(*resize)(void *block, size_t size);
    void (*release)(void *block);
};

/* Replace the allocator (NULL: malloc, realloc, free again). */
void cog_alloc_set_hooks(const struct cog_alloc_hooks *hooks);

void *cog_alloc(size_t size); /* NULL when refused; size 0 is a valid block */
/* count * size bytes of zeros; NULL on overflow or refusal */
void *cog_alloc_zeroed(size_t count, size_t size);
/* as realloc; the old block stays valid on NULL */
void *cog_realloc(void *block, size_t size);
void cog_free(void *block); /* accepts NULL */

static inline bool cog_mul_overflows(size_t a, size_t b, size_t *product)
{
    return __builtin_mul_overflow(a, b, product);
}

static inline bool cog_add_overflows(size_t a, size_t b, size_t *sum)
{
    return __builtin_add_overflow(a, b, sum);
}

#endif
