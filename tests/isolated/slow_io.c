/*
 * A disk that hangs: preloaded, it holds every write of a value while the file that SLOW_IO_WHILE
 * names exists. Says on stdout when somebody is held, and makes the file that SLOW_IO_HELD names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static void hold(void)
{
    const char *path = getenv("SLOW_IO_WHILE");
    int told = 0;

    while (path != NULL && access(path, F_OK) == 0) {
        if (!told && write(1, "held\n", 5) == 5) {
            told = 1;
            close(open(getenv("SLOW_IO_HELD"), O_CREAT | O_WRONLY, 0600));
        }
        usleep(10000);
    }
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset)
{
    ssize_t (*real)(int, const struct iovec *, int,
                    off_t) = (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT,
                                                                                      "pwritev");

    hold();
    return real(fd, pieces, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset)
{
    ssize_t (*real)(int, const struct iovec *, int, off64_t) = (ssize_t(*)(
        int, const struct iovec *, int, off64_t))dlsym(RTLD_NEXT, "pwritev64");

    hold();
    return real(fd, pieces, count, offset);
}
