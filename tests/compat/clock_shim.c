/* Stands in front of the C library's clock (LD_PRELOAD): the wall clock is moved by, and the kernel's word on synchronisation is,
 * what the file of HEADWATER_TEST_CLOCK says: offset in nanoseconds i64, synchronised i64, of this machine's order. The file stays
 * mapped, so that a change is seen by the next call. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int64_t offset_ns;
    volatile int64_t synchronised;
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("HEADWATER_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        static const char why[] = "clock_shim: HEADWATER_TEST_CLOCK cannot be mapped\n";
        (void)!write(2, why, sizeof why - 1);
        _exit(99);
    }
    control = mapped;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME && control) {
        int64_t ns = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + control->offset_ns;
        time->tv_sec = ns / 1000000000;
        time->tv_nsec = ns % 1000000000;
    }
    return result;
}

int adjtimex(struct timex *timex) {
    if (timex->modes != 0) {
        return -1;
    }
    timex->status = control->synchronised ? 0 : STA_UNSYNC;
    return control->synchronised ? TIME_OK : TIME_ERROR;
}
