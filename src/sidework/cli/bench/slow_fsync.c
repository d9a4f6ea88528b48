/* Makes every sync take longer by SIDEWORK_BENCH_SYNC_MS milliseconds, as on a slower disk. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int file)
{
    const char *text = getenv("SIDEWORK_BENCH_SYNC_MS");
    double ms = text ? atof(text) : 0;
    struct timespec wait = { (time_t)(ms / 1000), (long)((ms - 1000 * (long)(ms / 1000)) * 1e6) };
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    nanosleep(&wait, NULL);
    return next(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
