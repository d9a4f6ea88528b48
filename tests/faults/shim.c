/* Stands between a process and the C library (LD_PRELOAD): lets the n-th write or sync of a database file fail, and
   moves the wall clock. Armed through ctypes by the process itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long calls, failures, armed_at;
static volatile int error_number, is_short;
static volatile double sick_for, sick_until;
static volatile long clock_seconds;

static int (*real_clock_gettime)(clockid_t, struct timespec *);

static double monotonic(void) {
    struct timespec t;
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* at: which call is the first to fail (0: none); seconds: how long all later ones fail too (0: only that one). */
void shim_arm(long at, int number, int short_write, double seconds) {
    calls = failures = 0;
    error_number = number;
    is_short = short_write;
    sick_for = seconds;
    sick_until = 0;
    armed_at = at;
}
long shim_calls(void) { return calls; }
long shim_failures(void) { return failures; }
void shim_move_clock(long seconds) { clock_seconds = seconds; }

static int is_of_a_database(int descriptor) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, ".db") && !strstr(path, ".lock");
}

static int fails(int descriptor) {
    if (!is_of_a_database(descriptor)) return 0;
    long call = __sync_add_and_fetch(&calls, 1);
    if (!armed_at || call < armed_at) return 0;
    if (call == armed_at && sick_for > 0) sick_until = monotonic() + sick_for;
    if (call > armed_at && monotonic() >= sick_until) return 0;
    __sync_add_and_fetch(&failures, 1);
    return 1;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (!fails(descriptor)) return real(descriptor, data, size, offset);
    if (is_short && size > 1) real(descriptor, data, size / 2, offset);
    errno = error_number;
    return -1;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (!fails(descriptor)) return real(descriptor, data, size);
    errno = error_number;
    return -1;
}

int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (fails(descriptor)) { errno = error_number; return -1; }
    return real(descriptor);
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (fails(descriptor)) { errno = error_number; return -1; }
    return real(descriptor);
}

int ftruncate64(int descriptor, off64_t size) {
    static int (*real)(int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "ftruncate64");
    if (fails(descriptor)) { errno = error_number; return -1; }
    return real(descriptor, size);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, t);
    if (clock == CLOCK_REALTIME) t->tv_sec += clock_seconds;
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
