/* Makes every flush of a file take FLUSH_US microseconds more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_longer(void) {
    const char *text = getenv("FLUSH_US");
    long micros = text ? atol(text) : 0;
    struct timespec rest = {micros / 1000000, micros % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, 0);
}

int fdatasync(int file) {
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
    wait_longer();
    return result;
}

int fsync(int file) {
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
    wait_longer();
    return result;
}
