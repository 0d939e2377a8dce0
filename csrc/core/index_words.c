/* Words of the index file and the names and numbers that everybody needs: see index_file.h. */
#include "core/index_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/bytes.h"

/* --- words --- */

static _Atomic uint64_t *mapped64(const struct cog_index_file *file, size_t at)
{
    return (_Atomic uint64_t *)(void *)(file->map + at);
}

static _Atomic uint32_t *mapped32(const struct cog_index_file *file, size_t at)
{
    return (_Atomic uint32_t *)(void *)(file->map + at);
}

static void read_unmapped(struct cog_index_file *file, void *out, size_t size, size_t at)
{
    if (cog_fs_read_all(file->fs, atomic_load(&file->fd), out, size, at)) {
        atomic_store(&file->broken, true);
        memset(out, 0, size);
    }
}

/*
 * The fence makes a system call that wrote and one that reads as ordered as two seq_cst accesses:
 * what the kernel stored for us is stored by this processor, and visible before anything that we
 * read afterwards.
 */
static void write_unmapped(struct cog_index_file *file, const void *data, size_t size, size_t at)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (cog_fs_write_all(file->fs, atomic_load(&file->fd), data, size, at))
        atomic_store(&file->broken, true);
    atomic_thread_fence(memory_order_seq_cst);
}

uint64_t cog_word64(struct cog_index_file *file, size_t at)
{
    uint64_t value;
    if (file->map)
        return atomic_load(mapped64(file, at));
    read_unmapped(file, &value, sizeof value, at);
    return value;
}

uint32_t cog_word32(struct cog_index_file *file, size_t at)
{
    uint32_t value;
    if (file->map)
        return atomic_load_explicit(mapped32(file, at), memory_order_acquire);
    read_unmapped(file, &value, sizeof value, at);
    return value;
}

void cog_word64_set(struct cog_index_file *file, size_t at, uint64_t value)
{
    if (file->map)
        atomic_store_explicit(mapped64(file, at), value, memory_order_release);
    else
        write_unmapped(file, &value, sizeof value, at);
}

void cog_word32_set(struct cog_index_file *file, size_t at, uint32_t value)
{
    if (file->map)
        atomic_store_explicit(mapped32(file, at), value, memory_order_release);
    else
        write_unmapped(file, &value, sizeof value, at);
}

void cog_word64_raise(struct cog_index_file *file, size_t at, uint64_t value, uint64_t most)
{
    uint64_t now = cog_word64(file, at);
    if (now >= value)
        return;
    if (!file->map) {
        cog_word64_set(file, at, most);
        return;
    }
    while (now < value && !atomic_compare_exchange_weak(mapped64(file, at), &now, value))
        continue;
}

void cog_word32_raise(struct cog_index_file *file, size_t at, uint32_t value, uint32_t most)
{
    uint32_t now = cog_word32(file, at);
    if (now >= value)
        return;
    if (!file->map) {
        cog_word32_set(file, at, most);
        return;
    }
    while (now < value && !atomic_compare_exchange_weak(mapped32(file, at), &now, value))
        continue;
}

void cog_words64(struct cog_index_file *file, size_t at, size_t stride, unsigned count,
                 uint64_t *out)
{
    if (file->map) {
        for (unsigned i = 0; i < count; i++)
            out[i] = atomic_load(mapped64(file, at + i * stride));
        return;
    }
    unsigned char bytes[4096];
    unsigned at_once = (unsigned)(sizeof bytes / stride);
    for (unsigned done = 0; done < count;) {
        unsigned some = count - done < at_once ? count - done : at_once;
        read_unmapped(file, bytes, (some - 1) * stride + sizeof *out, at + done * stride);
        for (unsigned i = 0; i < some; i++)
            memcpy(out + done + i, bytes + i * stride, sizeof *out);
        done += some;
    }
}

bool cog_word64_swap(struct cog_index_file *file, size_t at, uint64_t from, uint64_t to)
{
    if (file->map)
        return atomic_compare_exchange_strong(mapped64(file, at), &from, to);
    if (cog_word64(file, at) !=
        from) /* only for words that one process writes, under a mutex of ours */
        return false;
    cog_word64_set(file, at, to);
    return true;
}

/* --- names and numbers --- */

void cog_object_path(const struct cog_digest *digest, char out[COG_OBJECT_PATH_SIZE])
{
    char hex[2 * COG_DIGEST_SIZE + 1];
    cog_hex(digest->bytes, COG_DIGEST_SIZE, hex);
    memcpy(out, "objects/", 8);
    memcpy(out + 8, hex, 2);
    out[10] = '/';
    memcpy(out + 11, hex + 2, sizeof hex - 2);
}

bool cog_object_is_pinned(const struct cog_fs *fs, int root, const struct cog_digest *digest)
{
    char path[COG_OBJECT_PATH_SIZE] = "pins/";
    struct cog_stat stat;
    cog_hex(digest->bytes, COG_DIGEST_SIZE, path + 5);
    return fs->stat_at(root, path, &stat) == 0;
}

void cog_shard_path(unsigned shard, char out[COG_OBJECT_PATH_SIZE])
{
    snprintf(out, COG_OBJECT_PATH_SIZE, "objects/%02x", shard & 0xffu);
}

bool cog_object_name_parse(unsigned shard, const char *name, struct cog_digest *out)
{
    out->bytes[0] = (unsigned char)shard;
    return strlen(name) == 2 * (COG_DIGEST_SIZE - 1) &&
           cog_unhex(name, COG_DIGEST_SIZE - 1, out->bytes + 1);
}

uint64_t cog_charge(const struct cog_stat *stat, uint32_t block_size)
{
    uint64_t block = block_size ? block_size : 4096;
    uint64_t rounded = stat->size > UINT64_MAX - block ? stat->size
                                                       : (stat->size + block - 1) / block * block;
    return stat->blocks_bytes > rounded ? stat->blocks_bytes : rounded;
}

/* 48 bits of 4 KiB units, 16 bits of their hash. */
uint64_t cog_ceiling_pack(uint64_t bytes)
{
    const uint64_t most = (UINT64_C(1) << 48) - 1;
    uint64_t units = bytes / 4096 + (bytes % 4096 != 0);
    units = units < most ? units : most;
    return cog_hash64(&units, sizeof units, COG_INDEX_MAGIC) << 48 | units;
}

uint64_t cog_ceiling_unpack(uint64_t word)
{
    uint64_t units = word & ((UINT64_C(1) << 48) - 1);
    if (word == 0 || cog_ceiling_pack(units * 4096) != word)
        return UINT64_MAX;
    return units * 4096;
}

uint64_t cog_limit_margin(uint64_t limit)
{
    const uint64_t least = UINT64_C(1) << 20;
    return limit / 256 > least ? limit / 256 : least;
}

bool cog_index_owns(const struct cog_index *index, const struct cog_stat *stat)
{
    if (!S_ISREG(stat->mode))
        return false;
    if (stat->uid == index->options.fs->effective_uid() || stat->uid == 0 ||
        stat->uid == index->root_stat.uid)
        return true;
    return index->options.group_shared && stat->gid == index->root_stat.gid;
}

uint64_t cog_index_now_ms(const struct cog_index *index)
{
    const struct cog_index_hooks *hooks = &index->options.hooks;
    return hooks->now_ms ? hooks->now_ms(hooks->context) : index->options.fs->realtime_ms();
}

uint64_t cog_index_time(const struct cog_index *index)
{
    return cog_shard_time(index->options.fs->boottime_ns(), 0);
}
