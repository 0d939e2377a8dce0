/*
 * Writing a long run of bytes that stay in place, from both ends at once.
 *
 * A file system lets one writer at a time into a file, and that writer waits for memory. So the
 * caller writes from the front, and a second thread fills the file from the back through a shared
 * map, which goes past that lock. Each takes the checksums of what it copies right before it does,
 * while the bytes are in its processor's cache. They share out pieces of the size of a large page
 * until they meet.
 *
 * A map is quick where the file system brings large pages on a fault (ext4 from Linux 6.16, XFS),
 * and slow where every 4 KiB are a fault of their own: the thread looks at what its first piece
 * took, and where it took too much it only takes checksums from then on. Without the thread, or on
 * a crowded machine, the caller does everything itself: slower, and the same bytes.
 *
 * Bytes that change while this goes on get a checksum that fits one state of them or none: what was
 * written may then be refused when it is read, and is never taken for what it is not. A file that
 * is cut short under the map, or that its disk refuses, is a failed write and no death (guard.h).
 */
#ifndef COG_LONG_RUN_H
#define COG_LONG_RUN_H

#include "core/entry.h"
#include "core/fs.h"

/*
 * Write `run` at `offset` of the file, which nobody else uses and which has the blocks for it;
 * the checksum of every chunk goes to `sums` as in cog_sink.write_run. COG_ERR_IO with the errno in
 * `err`: an unknown part of it is written.
 */
enum cog_status cog_long_run_write(const struct cog_run *run, const struct cog_fs *fs, int fd,
                                   uint64_t offset, unsigned char *sums, struct cog_error *err);

#endif
